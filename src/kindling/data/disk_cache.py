"""A bounded folder for what can be read or computed again: copies of shards and decoded images."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

from kindling.utils.files import locked

FOLDER = "kindling-shards"  # in the cache folder, for all files of Kindling
FILE = re.compile(r"[0-9a-f]{32}/(train|val|test)-[\w.-]+")  # path of a file in that folder
PART = ".part"  # suffix of a file while it is copied
PIXELS = ".pixels"  # suffix of decoded images
UNFINISHED = 3600.0  # seconds after which the part of a file belongs to a process that was killed


class DiskCache:
    """Files of all data sets in a folder; the least recently used files are evicted, unless a process has locked them.

    Args:
        folder: The folder; files that Kindling has not written stay.
        limit: Most bytes of all files.
    """

    def __init__(self, folder: str | Path | None, limit: float) -> None:
        self.root = Path(folder or default_cache()).absolute() / FOLDER
        self.limit, self.started = limit, time.time()

    def unchanged(self) -> AbstractContextManager[None]:
        """Let no process remove files."""
        return locked(self.root / "cache.lock")

    def make_room(self) -> None:
        """Remove files until the limit is kept.

        Locked files stay. The others are removed in this order: those not used since this object was created; copies of
        shards, which are faster to copy than images are to decode; those that were not used for longest.
        """
        with self.unchanged():
            found = [*self._files()]
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found, key=self._order):
                if total <= self.limit:
                    break
                if path.suffix not in (PART, ".lock") and not is_locked(path):
                    with suppress(OSError):  # open in another process, on Windows
                        path.unlink()
                        total -= size

    def _order(self, file: tuple[float, int, Path]) -> tuple[bool, bool, float]:
        used, _, path = file
        return used >= self.started, path.suffix == PIXELS, used

    def room(self, besides: Path | None = None) -> float:
        """Return how many bytes a file may take besides the files in use, at most half of the free disk space."""
        others = (file for file in self._files() if file[2] != besides)
        in_use = sum(size for used, size, path in others if used >= self.started or is_locked(path))
        return min(self.limit - in_use, shutil.disk_usage(self.root).free / 2)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the time of last use, the size and the path of each file; remove those of killed processes."""
        for path in self.root.glob("*/*"):
            if not FILE.fullmatch(path.relative_to(self.root).as_posix()):
                continue  # not written by Kindling
            with suppress(OSError):  # removed by another process
                status = path.stat()
                if path.suffix == PART and time.time() - status.st_mtime > UNFINISHED:
                    path.unlink()
                else:
                    yield status.st_mtime, status.st_size, path


def open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and writing, which no `DiskCache` removes until it is closed."""
    file = path.open("r+b", buffering=0)
    with suppress(ImportError, OSError):  # Windows, or a disk without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def is_locked(path: Path) -> bool:
    """Return whether a file is open by `open_locked`, in any process."""
    with suppress(ImportError, OSError):
        import fcntl

        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def default_cache() -> Path:
    """Return the user's folder for cached files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kindling")
