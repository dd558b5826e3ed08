"""Repeats: runs of the same command that differ in one setting, such as the seed, and their results."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kindling.runs.folders import RUNS
from kindling.runs.listing import Run, find_runs, natural_key, sort_by_start
from kindling.runs.metadata import read_json
from kindling.utils.files import atomic_write

FILE = "repeat.json"
PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Repeat:
    """Runs of the same command that differ in one setting.

    Attributes:
        path: Folder `runs/<recipe>/repeat_<n>`, with a folder of runs for each member.
        command: Options of `fit` that the runs share.
        members: Options in which each run differs, by the name of its folder: {"seed_42": ["--seed_everything=42"]}.
    """

    path: Path
    command: list[str]
    members: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the repeat in a folder; None if there is none, or its file is damaged."""
        stored = read_json(path / FILE)
        command, members = stored.get("command"), stored.get("members")
        if not (isinstance(command, list) and isinstance(members, dict)):
            return None
        lists = [command, *members.values()]
        is_valid = all(isinstance(each, list) and all(isinstance(part, str) for part in each) for each in lists)
        return cls(path, command, members) if is_valid else None

    @classmethod
    def open(cls, name: str, command: list[str], members: dict[str, list[str]], root: Path = RUNS) -> Self:
        """Return the repeat of a command: the one that has been started before, or else a new one.

        Args:
            name: Name of the recipe.
            command: Options of `fit` that the runs share.
            members: The options in which each run differs, by its name.
            root: Folder of all runs.
        """
        taken = sorted((root / name).glob("repeat_*"), key=lambda path: natural_key(path.name))
        for path in reversed(taken):
            if (found := cls.read(path)) and (found.command, found.members) == (command, members):
                return found
        number = 1 + natural_key(taken[-1].name)[-2][0] if taken else 0
        repeat = cls(root / name / f"repeat_{number}", command, members)
        repeat.path.mkdir(parents=True)
        with atomic_write(repeat.path / FILE) as path:
            path.write_text(json.dumps({"command": command, "members": members}, indent=2) + "\n", "utf-8")
        return repeat

    @property
    def overlap(self) -> float:
        """Ratio of test to training samples if the members are folds, else 0; see `repeat_statistics.estimate`."""
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


def find_repeat(name: str, root: Path = RUNS) -> Repeat | None:
    """Return the repeat in a folder, given by its path or relative to `root`; None if there is none."""
    return next((found for folder in (Path(name), root / name) if (found := Repeat.read(folder))), None)
