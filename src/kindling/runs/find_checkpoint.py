"""Find checkpoints by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kindling.runs.folders import ENSEMBLE, REPEAT_FILE, RUNS, STUDY_FILE, is_in_run, written_checkpoints
from kindling.runs.text_files import read_json
from kindling.runs.untrusted_config import check_links
from kindling.utils.text import program_name, suggest, suggest_path

Kind = Literal["best", "last"]


def find_checkpoint(
    where: str | Path, prefer: Kind = "best", root: Path = RUNS, names: Sequence[str] = ("best", "last")
) -> Path:
    """Return a checkpoint given as a file, as a folder, or as `best` or `last` of the newest run under `root`.

    Args:
        where: Path of a checkpoint or of a folder that contains runs, or `best` or `last`. The folder of a
            cross-validation stands for the ensemble of its folds, that of a study for its best trial.
        prefer: Which checkpoint of the newest run to return for a folder.
        root: Folder of all runs.
        names: Names that a user may give, for the error message.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If links point out of its run folder; see `kindling.runs.untrusted_config.check_links`.
    """
    path = Path(where)
    if path.is_file():
        return _with_its_run(path)
    if str(where) in ("best", "last"):
        folder, kind = root, str(where)
    elif path.is_dir():
        has_ensemble = (path / REPEAT_FILE).exists() and written_checkpoints(path / ENSEMBLE)
        folder, kind = path / ENSEMBLE if has_ensemble else best_trial(path) or path, prefer
    else:
        near = suggest(str(where), names) or suggest_path(where, _may_have_checkpoint)
        near = near or f": give a file, a run folder, {', '.join(names[:-1])} or {names[-1]}"
        raise FileNotFoundError(f"there is no checkpoint {where}{near}")
    written = written_checkpoints(folder)
    if not written:
        raise FileNotFoundError(f"there is no {kind}.ckpt under {folder}: train one with {program_name()} fit")
    found = written[-1].with_name(f"{kind}.ckpt")  # of the newest run
    if not found.exists():
        names = [f"{name}.ckpt" for name in ("best", "last", "previous") if found.with_name(f"{name}.ckpt").exists()]
        existing = " or ".join(names or [written[-1].name])
        raise FileNotFoundError(f"there is no {found}: choose another checkpoint, {existing}")
    return _with_its_run(found)


def _may_have_checkpoint(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".ckpt"


def best_trial(study: Path) -> Path | None:
    """Return the folder of the best trial of a study; None if there is none."""
    number = read_json(study / STUDY_FILE).get("best")
    return study / f"trial_{number}" if isinstance(number, int) else None


def _with_its_run(checkpoint: Path) -> Path:
    """Return a checkpoint's path that includes the name of its run folder.

    A path may lack it: `last.ckpt` in the working directory, `../checkpoints/last.ckpt`, or a link elsewhere.
    """
    if checkpoint.is_symlink() and not is_in_run(checkpoint.absolute()):
        checkpoint = checkpoint.resolve()
    if len(checkpoint.parts) < 3 or ".." in checkpoint.parts:
        checkpoint = checkpoint.parent.resolve() / checkpoint.name
    check_links(checkpoint)
    return checkpoint
