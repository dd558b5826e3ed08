"""The temporary folder that the processes of a server share."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "kindling-serve-"
LOCK = "lock"  # file that the main process keeps locked: its PID might be that of a process in another container
CREATION_SECONDS = 60  # within which a new folder gets its lock


@contextmanager
def shared_folder() -> Iterator[str]:
    """Create a folder, which is removed in the end, and remove those of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if _is_abandoned(folder):
                shutil.rmtree(folder)
    with ExitStack() as stack:
        created = stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True))
        if os.name == "posix":
            stack.enter_context(_lock(Path(created)))
        yield created


def _is_abandoned(folder: Path) -> bool:
    if os.name != "posix" or not (folder / LOCK).exists():
        return False
    status = folder.lstat()
    if status.st_uid != os.getuid() or time.time() - status.st_mtime < CREATION_SECONDS:
        return False
    with _lock(folder):
        return True


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    import fcntl

    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
