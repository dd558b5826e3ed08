"""Run folders: `runs/<recipe>/version_<n>/`, one per `fit`."""

import os
import shutil
import unicodedata
from contextlib import suppress
from pathlib import Path

from kindling.utils.errors import UsageError

RUNS = Path("runs")
RUN_FILES = ("run.json", "config.yaml", "metrics.csv")  # a run folder has at least one of them
MAX_NAME_BYTES = 120  # file systems allow 255, and some file names contain the run name


LABEL_ERRORS = "label_errors.csv"  # likely label errors, of a test or of all folds
REPEAT_FILE = "repeat.json"  # in the folder of `kindling repeat`
ENSEMBLE = "ensemble"  # folder of the run there that combines the folds
STUDY_FILE = "study.json"  # in the folder of `kindling tune`


def check_run_name(name: str, option: str = "--run_name") -> None:
    """Raise UsageError if the value of an option is not a valid folder name inside `runs/`."""
    for folder in name.split("/"):
        reason = ""
        if folder in ("", ".", "..") or "\\" in folder:
            reason = "it must be a folder inside runs/, such as a or a/b"
        elif folder != folder.strip():
            reason = "it begins or ends with a space"
        elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in folder):
            reason = "it contains a control character"
        elif len(folder.encode()) > MAX_NAME_BYTES:
            reason = f"it is longer than {MAX_NAME_BYTES} bytes"
        if reason:
            raise UsageError(f"{option} {name[:40]!r}: {reason}")


def new_run(name: str, root: Path = RUNS, kind: str = "version") -> Path:
    """Create the next free folder `root/name/<kind>_<n>`; safe if several runs start at once."""
    versions = [path.name.removeprefix(f"{kind}_") for path in (root / name).glob(f"{kind}_*")]
    number = 1 + max((int(version) for version in versions if version.isdigit()), default=-1)
    while True:
        run = root / name / f"{kind}_{number}"
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            if not run.is_dir():
                raise
            number += 1
        else:
            return run


def remove_folder(path: Path) -> None:
    """Remove a folder and its files, and folders around it in `runs/` that are empty then."""
    shutil.rmtree(path, ignore_errors=True)
    for parent in path.parents:
        if parent.is_relative_to(RUNS):
            with suppress(OSError):
                parent.rmdir()  # fails if it contains other runs


def written_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of all runs in a folder, newest last; those of repeats and studies only without others."""
    times: dict[Path, tuple[bool, float]] = {}
    for path in folder.glob("**/checkpoints/*.ckpt"):
        with suppress(FileNotFoundError):  # a broken link, or a file that was just replaced
            group = path.parent.parent.parent.parent  # <repeat or study>/<member>/version_<n>/checkpoints/<file>
            is_single = not any((group / name).exists() for name in (REPEAT_FILE, STUDY_FILE))
            times[path] = is_single, path.stat().st_mtime
    return sorted(times, key=times.__getitem__)


def is_in_run(checkpoint: Path) -> bool:
    """Return whether a checkpoint is in a run folder; other projects have folders called `checkpoints` too."""
    folder, run = checkpoint.parent, checkpoint.parent.parent
    return folder.name == "checkpoints" and any(os.path.lexists(run / name) for name in RUN_FILES)


def surroundings_of(checkpoint: Path) -> Path:
    """Return the folder around a checkpoint, which another user may have created: code in it must not be imported."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else run_folder_of(checkpoint)


def is_last(checkpoint: Path) -> bool:
    """Return whether a checkpoint is the `last.ckpt` of a run, which resumes in the same folder."""
    return checkpoint.name == "last.ckpt" and is_in_run(checkpoint)


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint; outside of a run, the folder for its results, next to the file."""
    if is_in_run(checkpoint):
        return checkpoint.parent.parent
    return checkpoint.with_suffix("") if checkpoint.suffix else checkpoint.with_name(f"{checkpoint.name}_results")
