"""Copies files of a data set from a folder or an object store, and computes their checksums."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kindling.data.streaming.timeouts import ReportProgress
from kindling.utils.optional import require_extra

BLOCK = 2**20  # bytes per read


class DamagedFileError(ValueError):
    """The content of a file does not have the expected checksum."""


class ChecksumWriter:
    """Target of a file copy: computes the checksum, and passes the content on to `write`, if it is given."""

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


class Origin:
    """Where the files of a data set are: a folder, or an address in an object store.

    Args:
        root: Folder, or address such as s3://bucket/folder.
        timeout: Seconds to wait for an object store.
    """

    def __init__(self, root: str, timeout: float) -> None:
        self.root, self.timeout, self.is_remote = root, timeout, is_remote(root)
        self._downloader: Any = None
        self._owner = 0  # the process of the downloader
        if self.is_remote:
            require_extra("stream", "litdata")
            import litdata.streaming.downloader  # noqa: F401  (not in a thread, which could be copied while it imports)

    def copy(self, file: str, target: ChecksumWriter) -> None:
        """Copy a file, given by its path in the data set."""
        if self.is_remote:
            self._remote().download_fileobj(f"{self.root}/{file}", target)
        else:
            copy_file(Path(self.root, file), target)

    def _remote(self) -> Any:
        """Return LitData's downloader of this process: connections must not be shared with a parent process."""
        if self._owner != os.getpid():
            from litdata.streaming.downloader import get_downloader

            options: dict[str, Any] = {}
            if self.root.startswith("s3://"):
                from botocore.config import Config

                wait = {"connect_timeout": self.timeout, "read_timeout": self.timeout}
                options["config"] = Config(**wait, retries={"total_max_attempts": 1})
            self._downloader, self._owner = get_downloader(self.root, "", [], options), os.getpid()
        return self._downloader

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_downloader": None, "_owner": 0}


def copy_file(path: Path, target: ChecksumWriter) -> None:
    """Copy a local file."""
    with path.open("rb") as source:
        shutil.copyfileobj(source, target, BLOCK)


def is_remote(root: str) -> bool:
    """Return whether a data set is in an object store."""
    return "://" in root
