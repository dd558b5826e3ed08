"""Repeats: runs of the same command that differ in one setting, such as the seed, and their results."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kindling.runs.folders import ENSEMBLE, REPEAT_FILE, RUNS, new_run, written_checkpoints
from kindling.runs.run import Run, find_runs, sort_by_start
from kindling.runs.text_files import read_json
from kindling.runs.untrusted_config import texts
from kindling.utils.files import atomic_write, write_json
from kindling.utils.text import natural_key

PREDICTIONS = "predictions.csv"
OUTPUTS = "test_outputs.pt"  # in each run: outputs and targets of its test, and the names of the samples
MAX_NAME = 1000  # characters of the name of a file


@dataclass(frozen=True)
class Repeat:
    """Runs of the same command that differ in one setting.

    Attributes:
        path: Folder `runs/<recipe>/repeat_<n>`, with a folder of runs for each member.
        command: Options of `fit` that the runs share.
        members: Options in which each run differs, by the name of its folder: {"seed_42": ["--seed_everything=42"]}.
        digest: Digest of the files that the command names, see `digest_files`.
    """

    path: Path
    command: list[str]
    members: dict[str, list[str]]
    digest: str = ""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the repeat in a folder; None if there is none, or its file is damaged."""
        stored = read_json(path / REPEAT_FILE)
        command, members, digest = (stored.get(name) for name in ("command", "members", "digest"))
        if not (isinstance(command, list) and isinstance(members, dict) and len(members) > 1):
            return None
        lists = [command, *members.values()]
        is_valid = all(isinstance(each, list) and all(isinstance(part, str) for part in each) for each in lists)
        return cls(path, command, members, str(digest)) if is_valid else None

    @classmethod
    def open(cls, name: str, command: list[str], members: dict[str, list[str]], digest: str) -> Self:
        """Return the repeat of a command: the one that has been started with the same files, or else a new one."""
        for path in sorted((RUNS / name).glob("repeat_*"), key=lambda path: natural_key(path.name), reverse=True):
            found = cls.read(path)
            if found and (found.command, found.members, found.digest) == (command, members, digest):
                return found
        repeat = cls(new_run(name, kind="repeat"), command, members, digest)
        write_json(repeat.path / REPEAT_FILE, {"command": command, "members": members, "digest": digest})
        return repeat

    @property
    def overlap(self) -> float:
        """Ratio of test to other samples if the members are folds, else 0; see `repeat_statistics.estimate`."""
        return 1 / (len(self.members) - 1) if all(name.startswith("fold_") for name in self.members) else 0.0

    def runs(self) -> dict[str, Run]:
        """Return the run of each member that has been started: the finished one, or else the newest."""
        found = {name: sort_by_start(map(Run.read, find_runs(self.path / name))) for name in self.members}
        return {name: max(reversed(runs), key=is_finished) for name, runs in found.items() if runs}

    def write_predictions(self) -> Path | None:
        """Write the predictions for the test rows of all folds into one CSV; None unless all folds have been tested."""
        files = {name: run.path / PREDICTIONS for name, run in self.runs().items() if self.overlap}
        if not files or len(files) < len(self.members) or not all(path.exists() for path in files.values()):
            return None
        import pandas as pd  # takes half a second to import

        parts = [pd.read_csv(path, dtype=str, keep_default_na=False).assign(fold=name) for name, path in files.items()]
        merged = pd.concat(parts)
        order = merged.iloc[:, 0].map(natural_key).argsort()  # by row
        with atomic_write(self.path / PREDICTIONS) as path:
            merged.iloc[order].to_csv(path, index=False)
        return self.path / PREDICTIONS

    def outputs(self) -> list[Path]:
        """Return the files with the outputs of the test of each fold; none unless all folds have one.

        Models and data of other libraries have none, and neither do runs of earlier versions of Kindling.
        """
        files = [run.path / OUTPUTS for run in self.runs().values() if self.overlap]
        return files if len(files) == len(self.members) and all(path.exists() for path in files) else []

    def has_report(self) -> bool:
        """Return whether the folds have a report that is newer than their tests."""
        return self._is_newer(self.path / "report.html")

    def is_combined(self) -> bool:
        """Return whether the folds have a report and an ensemble that are newer than their tests."""
        return self.has_report() and any(map(self._is_newer, written_checkpoints(self.path / ENSEMBLE)[-1:]))

    def _is_newer(self, path: Path) -> bool:
        outputs = self.outputs()
        return path.exists() and all(each.stat().st_mtime <= path.stat().st_mtime for each in outputs)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the value of each metric for each member that has it: test metrics, then those of the best epoch."""
        values: dict[str, dict[str, float]] = {}
        for member, run in self.runs().items():
            for name, value in _metrics(run):
                values.setdefault(name, {})[member] = value
        return values


def _metrics(run: Run) -> Iterator[tuple[str, float]]:
    names = [*run.test, *(name for name in run.metadata.best if name != "epoch" and name not in run.test)]
    for name in names:
        if (value := run.metric(name)) is not None:
            yield name, float(value)


def is_finished(run: Run) -> bool:
    """Return whether a run is trained, and tested unless its command says otherwise."""
    return run.metadata.is_complete(tests=run.settings().get("test_after_fit", True))


def find_repeat(name: str) -> Repeat | None:
    """Return the repeat in a folder, given by its path, with or without `runs/`; None if there is none."""
    return next((found for folder in (Path(name), RUNS / name) if (found := Repeat.read(folder))), None)


def digest_files(command: Sequence[str], configs: Sequence[Any]) -> str:
    """Return a digest of all files that options or configs name, to notice that a recipe or the data has changed.

    Of a folder, such as one of images, the names and sizes of its files count. `configs` are contents of config files.
    """
    names = {word.rpartition("=")[2] for word in command} | {text for config in configs for text in texts(config)}
    content = hashlib.sha256()
    for name in sorted(names):
        if not 0 < len(name) < MAX_NAME or "\0" in name:
            continue
        if (path := Path(name)).is_file():
            content.update(path.name.encode())  # the folder may differ on another machine
            with path.open("rb") as file:
                content.update(hashlib.file_digest(file, "sha256").digest())
        elif path.is_dir() and not RUNS.resolve().is_relative_to(path.resolve()):
            for inner in sorted(path.rglob("*")):
                content.update(f"{inner}:{inner.lstat().st_size};".encode())
    return content.hexdigest()
