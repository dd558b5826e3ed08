"""Run folders: `runs/<recipe>/version_<n>/`, one for each `fit`, and the checkpoints in them."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

RUNS = Path("runs")
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
    """
    path = Path(where)
    if path.is_file():
        return path
    if str(where) in ("best", "last"):
        folder, kind = root, str(where)
    elif path.is_dir():
        folder, kind = path, prefer
    else:
        raise FileNotFoundError(f"there is no checkpoint {where}: give a file, a run folder, best or last")
    written = sorted(folder.glob("**/checkpoints/*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not written:
        raise FileNotFoundError(f"there is no {kind}.ckpt under {folder}: train one with kindling fit")
    found = written[-1].with_name(f"{kind}.ckpt")  # of the newest run
    if not found.exists():
        raise FileNotFoundError(f"there is no {found}: that run has {written[-1].name} alone")
    return found


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to; outside of a run, a folder of its name beside it."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.with_suffix("")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running any code that it may carry.

    Raises:
        ValueError: If the file is damaged, is no checkpoint of Kindling, or carries code.
    """
    import torch  # takes seconds, and listing runs needs none of it

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights and plain values and could run code: it was not loaded"
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{path} is cut off, damaged or no checkpoint at all") from error
    if not isinstance(checkpoint, dict) or "_class_path" not in checkpoint.get("hyper_parameters", {}):
        raise ValueError(f"{path} is no checkpoint of Kindling: it does not say which model it holds")
    return checkpoint


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to and moves it to `path` at the end: nobody meets a file half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
