"""Copies of files: their checksums, and the room for them."""

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kindling.data.streaming.timeouts import Note
from kindling.utils.files import locked

BLOCK = 2**20  # bytes per read
COPIES = "kindling-shards"  # folder of all copies in a cache
COPY = re.compile(r"[0-9a-f]{32}/(train|val|test)-[\w.-]+")  # path of a copy in that folder
PART = ".part"  # suffix of a file while it is copied
UNFINISHED = 3600.0  # seconds after which the part of a file belongs to a process that was killed


class DamagedFileError(ValueError):
    """A file whose content does not have its checksum."""


class Target:
    """What a file is copied to: computes its checksum, and passes the content on to `write`, if it is given."""

    def __init__(self, note: Note, write: Callable[[bytes], object] | None = None) -> None:
        self.note, self._write = note, write
        self.bytes, self.digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take the next part of the content."""
        self.note()
        self.digest.update(data)
        self.bytes += len(data)
        if self._write:
            self._write(data)
        return len(data)


def make_room(cache: Path, limit: float) -> None:
    """Remove the copies that were not used for longest until all copies have at most `limit` bytes."""
    with locked(cache / "cache.lock"):
        found = []
        for path in cache.glob("*/*"):
            if not COPY.fullmatch(path.relative_to(cache).as_posix()):
                continue  # not written by Kindling
            with suppress(OSError):  # removed by another process
                status = path.stat()
                if path.suffix == PART and time.time() - status.st_mtime > UNFINISHED:
                    path.unlink()
                else:
                    found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                break
            if path.suffix not in (PART, ".lock"):
                with suppress(OSError):  # open in another process, on Windows
                    path.unlink()
                    total -= size
