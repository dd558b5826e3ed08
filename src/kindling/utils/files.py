"""Files written in one piece: beside their target, then renamed."""

import glob
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, beside `path`, and rename it to `path` at the end.

    Nobody meets a file half written, and the file is on disk before it takes the place of the old one: a kill, a full
    disk or a power cut leaves the old or the new file.

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


@contextmanager
def naming_the_file(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name the file in an error that occurs while it is written: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(path), str(temporary)):
            raise OSError(f"can't write {path}: {error.strerror}") from error
        raise


def remove_temporary_files(run: Path) -> None:
    """Remove the temporary files that killed processes left in a run folder; see `whole_file`."""
    for folder in (run, run / "checkpoints"):
        # Of this machine alone: whether a process of another one still runs is not known.
        for path in folder.glob(f".*.{glob.escape(platform.node())}.*.tmp"):
            pid = path.name.split(".")[-2]
            if pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
                with suppress(OSError):
                    path.unlink()
