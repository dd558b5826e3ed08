"""Run folders: `runs/<recipe>/version_<n>/`, one for each `fit`."""

from contextlib import suppress
from pathlib import Path

RUNS = Path("runs")


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


def written_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of all runs in a folder, the newest last."""
    times: dict[Path, float] = {}
    for path in folder.glob("**/checkpoints/*.ckpt"):
        with suppress(FileNotFoundError):  # a link that leads nowhere, or a file that was just replaced
            times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__)


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint is the `last.ckpt` of a run, which resumes in its folder."""
    return checkpoint.parts[-2:] == ("checkpoints", "last.ckpt")


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to; outside of a run, a folder of its name beside it."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.with_suffix("")
