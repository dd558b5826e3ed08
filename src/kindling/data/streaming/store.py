"""Access to the files of a prepared data set: on a disk, a mount or an object store, with a bounded disk cache."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

from kindling.data.disk_cache import PART, DiskCache
from kindling.data.streaming.copying import ChecksumWriter, DamagedFileError, Origin, copy_file
from kindling.data.streaming.manifest import FILE, UNFINISHED, Manifest, StoredFile
from kindling.data.streaming.timeouts import ReportProgress, within
from kindling.utils.files import locked
from kindling.utils.text import suggest_path

logger = logging.getLogger(__name__)

ATTEMPTS = 3
FIRST_PAUSE = 0.5  # seconds between attempts, doubled each time

Result = TypeVar("Result")


class FileStore:
    """Returns verified local files of a prepared data set.

    A folder is read in place unless it has a cache. From an object store, and with a cache, files are copied.

    Args:
        root: Folder, or address such as s3://bucket/folder.
        cache: Where copies are kept; None to read the files of a folder in place.
        timeout: Seconds without progress after which an attempt to read has failed.

    Raises:
        FileNotFoundError: If there is no prepared data set.
    """

    def __init__(self, root: str, cache: DiskCache | None, timeout: float) -> None:
        self.root, self.timeout, self.cache = root.rstrip("/"), timeout, cache
        self._origin = Origin(self.root, timeout)
        self._wanted: list[StoredFile] = []  # to be copied in the background
        self._thread: threading.Thread | None = None
        self.manifest = self._read_manifest()
        # Shared with the workers of data loaders, each of which would verify all files in each epoch.
        self._verified = torch.zeros(len(self.manifest.files), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]

    def _read_manifest(self) -> Manifest:
        if not self._origin.is_remote and not Path(self.root, FILE).exists():
            if not Path(self.root).is_dir():
                advice = (
                    suggest_path(self.root, Path.is_dir) or ": set --data.path to what kindling prepare has written"
                )
                raise FileNotFoundError(f"folder {self.root} not found{advice}")
            unfinished = Path(self.root, UNFINISHED).exists()
            hint = "its preparation was interrupted: run the same" if unfinished else "write it with"
            raise FileNotFoundError(f"{self.root} has no {FILE}; {hint} kindling prepare")

        def read(report_progress: ReportProgress) -> bytes:
            content = bytearray()
            self._origin.copy(FILE, ChecksumWriter(report_progress, content.extend))
            return bytes(content)

        return Manifest.from_json(self._attempt(FILE, read), f"{self.root}/{FILE}")

    def path(self, stored: StoredFile) -> Path:
        """Return the path of a local file with the content of a stored file.

        Raises:
            ValueError: If it is damaged.
            OSError: If it is missing or can't be read in time.
        """
        path = self._local(stored)
        flag = self._verified[self.manifest.files[stored.file]]
        if flag and (self.cache is None or path.exists()):
            if self.cache:
                with suppress(OSError):  # removed by another process
                    os.utime(path)  # used now
            return path
        if self.cache is None:
            self._attempt(stored.file, lambda report_progress: self._verify(path, stored, report_progress))
        else:
            self._fetch(path, stored)
        flag.fill_(1)
        return path

    def open(self, stored: StoredFile) -> BinaryIO:
        """Open a local file with the content of a stored file; see `path` for errors."""
        path = self.path(stored)
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            if self.cache is None:
                raise
        return self.path(stored).open("rb", buffering=0)  # another process has made room meanwhile

    def prefetch(self, files: Iterable[StoredFile]) -> None:
        """Copy files to the cache in the background; they replace the files that are still waiting.

        Errors are reported when a file is read.
        """
        self._wanted = [stored for stored in files if not self._local(stored).exists()]
        if self._wanted and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._fetch_wanted, daemon=True)
            self._thread.start()

    def _fetch_wanted(self) -> None:
        while self._wanted:
            with suppress(Exception):
                self.path(self._wanted.pop(0))

    def forget(self, stored: StoredFile) -> None:
        """Verify a file again when it is next used."""
        self._verified[self.manifest.files[stored.file]] = 0

    def unreadable(self, file: str, error: Exception, attempts: int = 1) -> Exception:
        """Return the error about a file that can't be read, given that of the last attempt."""
        name = f"{self.root}/{file}"
        if isinstance(error, DamagedFileError):
            return error
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(
                f"{name} is missing: copy it again, or delete the folder and run kindling prepare again"
            )
        tries = f" in {attempts} attempts" if attempts > 1 else ""
        return OSError(f"can't read {name}{tries}: {_reason(error)}")

    def damaged(self, stored: StoredFile, found: str) -> DamagedFileError:
        """Return the error about a file that is damaged; `found` says how."""
        return DamagedFileError(
            f"{self.root}/{stored.file} is damaged ({found}): copy it again, or delete the folder and run kindling "
            "prepare again"
        )

    def _local(self, stored: StoredFile) -> Path:
        if self.cache is None:
            return Path(self.root, stored.file)
        return self.cache.root / self.manifest.digest / stored.file.replace("/", "-")

    def _fetch(self, path: Path, stored: StoredFile) -> None:
        """Copy a file to the cache, unless an intact copy exists."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):  # other processes and threads wait for this copy
            if path.exists():
                with suppress(DamagedFileError):
                    self._verify(path, stored, report_progress=lambda: None)
                    os.utime(path)
                    return
            self._attempt(stored.file, lambda report_progress: self._copy_to_cache(path, stored, report_progress))

    def _copy_to_cache(self, path: Path, stored: StoredFile, report_progress: ReportProgress) -> None:
        assert self.cache
        part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}{PART}")
        try:
            with part.open("wb") as file:
                file.truncate(stored.bytes)  # so that other processes count it
                self.cache.make_room()
                target = ChecksumWriter(report_progress, file.write)
                self._origin.copy(stored.file, target)
            self._check(stored, target)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _verify(self, path: Path, stored: StoredFile, report_progress: ReportProgress) -> None:
        target = ChecksumWriter(report_progress)
        copy_file(path, target)
        self._check(stored, target)

    def _check(self, stored: StoredFile, target: ChecksumWriter) -> None:
        if target.bytes != stored.bytes:
            raise self.damaged(stored, f"it has {target.bytes:,} of {stored.bytes:,} bytes")
        if target.digest.hexdigest() != stored.sha256:
            raise self.damaged(stored, "its checksum differs")

    def _attempt(self, file: str, work: Callable[[ReportProgress], Result]) -> Result:
        """Return the result of reading a file, after further attempts if it fails or makes no progress.

        Raises:
            DamagedFileError: If its content is wrong each time.
            OSError: If it can't be read.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return within(self.timeout, work)
            except Exception as error:  # each object store has its own
                if attempt == ATTEMPTS:
                    raise self.unreadable(file, error, ATTEMPTS) from error
                if self._origin.is_remote:
                    logger.warning(f"{self.root}/{file}: attempt {attempt} of {ATTEMPTS} failed ({_reason(error)})")
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        raise AssertionError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_thread": None}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
