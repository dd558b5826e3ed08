"""Copies of files and their checksums."""

import hashlib
from collections.abc import Callable

from kindling.data.streaming.timeouts import ReportProgress

BLOCK = 2**20  # bytes per read


class DamagedFileError(ValueError):
    """A file whose content does not have its checksum."""


class ChecksumWriter:
    """What a file is copied to: computes its checksum, and passes the content on to `write`, if it is given."""

    def __init__(self, report_progress: ReportProgress, write: Callable[[bytes], object] | None = None) -> None:
        self.report_progress, self._write = report_progress, write
        self.bytes, self.digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take the next part of the content."""
        self.report_progress()
        self.digest.update(data)
        self.bytes += len(data)
        if self._write:
            self._write(data)
        return len(data)
