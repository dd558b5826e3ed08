"""Atomic writes of files, and a lock between processes."""

import glob
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

from kindling.utils.launch import find_launch


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` at the end.

    A kill, a full disk or a power failure leaves either the old or the new file, never a partial one.

    Raises:
        OSError: If the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with naming_the_file(path, temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a value, whose numbers are finite, as JSON; see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")


def check_writable(path: Path) -> None:
    """Raise OSError if a file can't be created in the folder of `path`, or in the first one above it that exists."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def in_turns() -> Iterator[None]:
    """Let distributed processes of this user take turns: torchrun and Slurm start all of a node at once."""
    is_distributed = find_launch().processes != 1
    name = f"kindling-{os.getuid() if hasattr(os, 'getuid') else ''}.lock"
    with locked(Path(tempfile.gettempdir(), name)) if is_distributed else nullcontext():
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of this user that a file stands for, and hold it; the file is removed at the end.

    Without locks (Windows) or a place for the file, processes don't wait. A process that ends releases its lock.
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            stack.enter_context(_lock(path))
        yield


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl

    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)  # other users can write to the folder
        if os.fstat(lock).st_uid != os.getuid():
            os.close(lock)
            raise PermissionError(f"{path} belongs to another user")
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                break
        os.close(lock)  # of a file that the process before has removed
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        fcntl.flock(lock, fcntl.LOCK_UN)  # processes that were forked meanwhile keep the file open
        os.close(lock)


@contextmanager
def naming_the_file(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Add the name of the file to an error that occurs while writing it; "disk full" names none."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(path), str(temporary)):
            reason = error.strerror if path.parent.exists() else f"the folder {path.parent} was deleted"
            raise OSError(f"can't write {path}: {reason}") from error
        raise


def remove_temporary_files(run: Path) -> None:
    """Remove the temporary files of `atomic_write` that killed processes left in a run folder."""
    for folder in (run, run / "checkpoints"):
        # Only those of this machine: processes elsewhere may still be running.
        for path in folder.glob(f".*.{glob.escape(platform.node())}.*.tmp"):
            pid = path.name.split(".")[-2]
            if pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
                with suppress(OSError):
                    path.unlink()
