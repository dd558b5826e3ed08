"""The file with a line for each request."""

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)


class AccessLog:
    """A file to which lines are appended, and which may be renamed meanwhile: a new one is begun then.

    Args:
        path: The file; "-" for standard output.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: TextIO | None = sys.stdout if path == "-" else None
        self._fails = False

    def write(self, line: str) -> None:
        """Write a line; if that fails, warn once, since the request has been answered."""
        try:
            if self._file is None or self._is_renamed(self._file):
                self._file = Path(self.path).open("a")  # noqa: SIM115
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            if not self._fails:
                logger.warning(f"the access log {self.path} is incomplete: {error}")
            self._fails = True
            if self._file is not sys.stdout:
                self._close()
        else:
            self._fails = False

    def _is_renamed(self, file: TextIO) -> bool:
        if self.path == "-":
            return False
        try:
            is_same = os.path.samestat(Path(self.path).stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            is_same = False
        if not is_same:
            self._close()
        return not is_same

    def _close(self) -> None:
        file, self._file = self._file, None
        with suppress(OSError):  # what could not be written before
            if file is not None:
                file.close()
