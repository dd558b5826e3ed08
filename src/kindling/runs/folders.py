"""Run folders: `runs/<recipe>/version_<n>/`, one per `fit`."""

from contextlib import suppress
from pathlib import Path

RUNS = Path("runs")


def new_run(name: str, root: Path = RUNS) -> Path:
    """Create the next free folder `root/name/version_<n>`; safe if several runs start at once."""
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


def written_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of all runs in a folder, newest last."""
    times: dict[Path, float] = {}
    for path in folder.glob("**/checkpoints/*.ckpt"):
        with suppress(FileNotFoundError):  # a broken link, or a file that was just replaced
            times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__)


def is_last(checkpoint: Path) -> bool:
    """Return whether a checkpoint is the `last.ckpt` of a run, which resumes in the same folder."""
    return checkpoint.parts[-2:] == ("checkpoints", "last.ckpt")


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint; outside of a run, a folder next to the file with its name."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.with_suffix("")
