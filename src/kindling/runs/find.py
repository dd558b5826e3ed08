"""Checkpoints and text files of run folders, found by name and read without trusting whoever wrote them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kindling.runs.folders import RUNS, written_checkpoints
from kindling.runs.trust import check_links, is_own_here
from kindling.utils.text import program_name

if TYPE_CHECKING:
    from kindling.runs.checkpoints import Verify

MOST_BYTES = 256 * 2**20  # of a text file in a run folder; metrics.csv has 100 bytes a row
Kind = Literal["best", "last"]


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


def _with_its_run(checkpoint: Path) -> Path:
    """Return the path of a checkpoint such that it names the run folder too, however it was given.

    `last.ckpt` in the working directory, `../mine/checkpoints/last.ckpt` and a link to a checkpoint of a run all do.
    """
    if checkpoint.is_symlink() and checkpoint.absolute().parent.name != "checkpoints":
        checkpoint = checkpoint.resolve()
    if len(checkpoint.parts) < 3 or ".." in checkpoint.parts:
        checkpoint = checkpoint.parent.resolve() / checkpoint.name
    check_links(checkpoint)
    return checkpoint


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
    is_inside = path.parent.resolve() in path.resolve().parents
    if path.is_symlink() and not is_inside and not is_own_here(path.parent):
        raise OSError(f"{path} leads out of its run folder, which was not made here: put the file itself there")
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise OSError(f"{path} is no file, or has more than {MOST_BYTES:,} bytes")
    return path.read_text("utf-8")
