"""Run folders: `runs/<recipe>/version_<n>/`, one for each `fit`, and the checkpoints in them."""

import glob
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from kindling.utils.text import program_name

if TYPE_CHECKING:
    from kindling.runs.checkpoints import Verify

RUNS = Path("runs")
MOST_BYTES = 256 * 2**20  # of a text file in a run folder; metrics.csv has 100 bytes a row
Kind = Literal["best", "last"]


def new_run(name: str, root: Path = RUNS) -> Path:
    """Makes the next free folder `root/name/version_<n>`; safe when several runs start at once."""
    versions = [path.name.removeprefix("version_") for path in (root / name).glob("version_*")]
    number = 1 + max((int(version) for version in versions if version.isdigit()), default=-1)
    while True:
        run = root / name / f"version_{number}"
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            if not run.is_dir():
                raise
            number += 1
        else:
            return run


def find_checkpoint(where: str | Path, prefer: Kind = "best", root: Path = RUNS) -> Path:
    """Finds a checkpoint by file, by run folder, or as `best` or `last` of the newest run under `root`.

    Args:
        where: Path of a checkpoint or of a folder with runs in it, or `best` or `last`.
        prefer: Which checkpoint of a run to take where only its folder is given.
        root: Folder that holds all runs.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If links lead out of its run folder; see `kindling.runs.trust.check_links`.
    """
    path = Path(where)
    if path.is_file():
        return _with_its_run(path)
    if str(where) in ("best", "last"):
        folder, kind = root, str(where)
    elif path.is_dir():
        folder, kind = path, prefer
    else:
        raise FileNotFoundError(f"there is no checkpoint {where}: give a file, a run folder, best or last")
    written = written_checkpoints(folder)
    if not written:
        raise FileNotFoundError(f"there is no {kind}.ckpt under {folder}: train one with {program_name()} fit")
    found = written[-1].with_name(f"{kind}.ckpt")  # of the newest run
    if not found.exists():
        names = [f"{name}.ckpt" for name in ("best", "last", "previous") if found.with_name(f"{name}.ckpt").exists()]
        there = " or ".join(names or [written[-1].name])
        raise FileNotFoundError(f"there is no {found}: give a file that is there, {there}")
    return _with_its_run(found)


def written_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of all runs in a folder, the newest last."""
    times: dict[Path, float] = {}
    for path in folder.glob("**/checkpoints/*.ckpt"):
        with suppress(FileNotFoundError):  # a link that leads nowhere, or a file that was just replaced
            times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__)


def _with_its_run(checkpoint: Path) -> Path:
    """Return the path of a checkpoint such that it names the run folder too, however it was given.

    `last.ckpt` in the working directory, `../mine/checkpoints/last.ckpt` and a link to a checkpoint of a run all do.
    """
    if checkpoint.is_symlink() and checkpoint.absolute().parent.name != "checkpoints":
        checkpoint = checkpoint.resolve()
    if len(checkpoint.parts) < 3 or ".." in checkpoint.parts:
        checkpoint = checkpoint.parent.resolve() / checkpoint.name
    from kindling.runs.trust import check_links  # which needs this module

    check_links(checkpoint)
    return checkpoint


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint is the `last.ckpt` of a run, which resumes in its folder."""
    return checkpoint.parts[-2:] == ("checkpoints", "last.ckpt")


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to; outside of a run, a folder of its name beside it."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.with_suffix("")


def read_checkpoint(path: Path, verify: "Verify" = "weights") -> dict[str, Any]:
    """Read a checkpoint without running any code that it may carry; see `kindling.runs.checkpoints.read`."""
    from kindling.runs.checkpoints import read  # torch takes seconds, and listing runs needs none of it

    return read(path, verify)


def read_text(path: Path) -> str:
    """Read a text file of a run folder, which may come from someone else.

    Raises:
        OSError: If it is no file, too large, or a link out of the folder of a run that was not made here.
        ValueError: If it is no text.
    """
    from kindling.runs.trust import is_own_here  # which needs this module

    is_inside = path.parent.resolve() in path.resolve().parents
    if path.is_symlink() and not is_inside and not is_own_here(path.parent):
        raise OSError(f"{path} leads out of its run folder, which was not made here: put the file itself there")
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise OSError(f"{path} is no file, or has more than {MOST_BYTES:,} bytes")
    return path.read_text("utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, beside `path`, and rename it to `path` at the end.

    Nobody meets a file half written, and the file is on disk before it takes the place of the old one: a kill, a full
    disk or a power cut leaves the old or the new file.

    Raises:
        OSError: If the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with writing(path, temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
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
