"""Access to the files of a prepared data set: on a disk, a mount or an object store, with a bounded disk cache."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

from kindling.data.disk_cache import PART, DiskCache
from kindling.data.streaming.copying import BLOCK, ChecksumWriter, DamagedFileError
from kindling.data.streaming.manifest import FILE, Manifest, StoredFile
from kindling.data.streaming.timeouts import ReportProgress, ignore_progress, within
from kindling.utils.files import locked
from kindling.utils.optional import require_extra

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
        self._downloader: Any = None
        self._owner = 0  # the process of the downloader
        self._wanted: list[StoredFile] = []  # to be copied in the background
        self._thread: threading.Thread | None = None
        if is_remote(root):
            require_extra("stream", "litdata")
            import litdata.streaming.downloader  # noqa: F401  (not in a thread, which could be copied while it imports)
        self.manifest = self._read_manifest()
        # Shared with the workers of data loaders, each of which would verify all files in each epoch.
        self._verified = torch.zeros(len(self.manifest.files), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]

    def _read_manifest(self) -> Manifest:
        if not is_remote(self.root) and not Path(self.root).is_dir():
            raise FileNotFoundError(
                f"folder {self.root} not found: set --data.path to what kindling prepare has written"
            )
        if not is_remote(self.root) and not Path(self.root, FILE).exists():
            unfinished = Path(self.root, ".unfinished").exists()
            hint = "its preparation was interrupted: run the same" if unfinished else "write it with"
            raise FileNotFoundError(f"{self.root} has no {FILE}; {hint} kindling prepare")

        def read(report_progress: ReportProgress) -> bytes:
            content = bytearray()
            self._copy(FILE, ChecksumWriter(report_progress, content.extend))
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
        """Copy files in the background if there is a cache; they replace the files that are still waiting.

        Errors are reported when a file is read.
        """
        self._wanted = [stored for stored in files if self.cache and not self._local(stored).exists()]
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

    def read_within(self, current: Sequence[StoredFile], work: Callable[[ReportProgress], Result]) -> Result:
        """Return the result of reading in local files, unless their disk or mount does not answer.

        Args:
            current: The last one is the file that is being read, which an error names.
            work: Takes a function to call at each progress.

        Raises:
            OSError: If one can't be read in time.
        """
        try:
            return within(self.timeout, work)
        except Exception as error:
            raise _as_error(error, f"{self.root}/{current[-1].file}", 1) from error

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
                    self._verify(path, stored)
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
                self._copy(stored.file, target)
            self._check(stored, target.bytes, target.digest.hexdigest())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _verify(self, path: Path, stored: StoredFile, report_progress: ReportProgress = ignore_progress) -> None:
        if path.stat().st_size != stored.bytes:
            self._check(stored, path.stat().st_size, "")
        target = ChecksumWriter(report_progress)
        with path.open("rb") as file:
            shutil.copyfileobj(file, target, BLOCK)
        self._check(stored, target.bytes, target.digest.hexdigest())

    def _check(self, stored: StoredFile, size: int, digest: str) -> None:
        if (size, digest) != (stored.bytes, stored.sha256):
            found = "its checksum differs" if size == stored.bytes else f"it has {size:,} of {stored.bytes:,} bytes"
            raise self.damaged(stored, found)

    def _copy(self, file: str, target: ChecksumWriter) -> None:
        if is_remote(self.root):
            self._remote().download_fileobj(f"{self.root}/{file}", target)
            return
        with Path(self.root, file).open("rb") as source:
            shutil.copyfileobj(source, target, BLOCK)

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

    def _attempt(self, file: str, work: Callable[[ReportProgress], Result]) -> Result:
        """Return the result of reading a file, after further attempts if it fails.

        Raises:
            DamagedFileError: If its content is wrong each time.
            OSError: If it can't be read.
        """
        name = f"{self.root}/{file}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return within(self.timeout, work)
            except Exception as error:  # each object store has its own
                if attempt == ATTEMPTS:
                    raise _as_error(error, name, ATTEMPTS) from error
                if is_remote(self.root):
                    logger.warning(f"{name}: attempt {attempt} of {ATTEMPTS} failed ({_reason(error)})")
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        raise AssertionError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_downloader": None, "_owner": 0, "_thread": None}


def _as_error(error: Exception, name: str, attempts: int) -> Exception:
    if isinstance(error, DamagedFileError):
        return error
    tries = f" in {attempts} attempts" if attempts > 1 else ""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            f"{name} is missing: copy it again, or delete the folder and run kindling prepare again"
        )
    return OSError(f"can't read {name}{tries}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def is_remote(root: str) -> bool:
    """Return whether a data set is in an object store."""
    return "://" in root
