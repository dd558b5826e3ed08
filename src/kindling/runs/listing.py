"""Run folders, and what is in them."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from kindling.runs.find import read_text
from kindling.runs.folders import RUNS
from kindling.runs.history import DAMAGED, read_history
from kindling.runs.metadata import FILE, TEST, RunMetadata, read_json, status_of
from kindling.runs.metric_names import standard_name
from kindling.runs.trust import check_size
from kindling.utils.text import program_name, strip_control_characters, suggest

MARKS = {FILE, "metrics.csv", "config.yaml"}


@dataclass(frozen=True)
class Run:
    """A run as it is now.

    Attributes:
        path: Its folder.
        record: What it says of itself.
        status: Whether it is under way or how it ended; empty where nothing says it.
        test: Figures of its test by name.
    """

    path: Path
    record: RunMetadata
    status: str
    test: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what its folder has, however damaged."""
        record, tested = RunMetadata.read(path), read_json(path / TEST)
        figures = {standard_name(name): value for name, value in tested.items() if isinstance(value, float | int)}
        return cls(path, record, status_of(record), figures)

    def figure(self, name: str) -> float | None:
        """A figure of the best validation or of the test."""
        value = (self.test | self.record.best).get(name)
        return value if isinstance(value, float | int) else None

    def history(self) -> dict[str, dict[int, float]]:
        """Its figures by epoch; none where `metrics.csv` is missing or damaged."""
        with suppress(*DAMAGED):
            return read_history(self.path / "metrics.csv")
        return {}

    def settings(self) -> dict[str, Any]:
        """Its `config.yaml` as options: {"model": "kindling.CNNClassifier", "model.channels": [32, 64], ...}."""
        with suppress(OSError, yaml.YAMLError, ValueError, RecursionError):
            config = yaml.load(read_text(self.path / "config.yaml"), _LOADER)
            check_size(config)
            return dict(_options(config)) if isinstance(config, dict) else {}
        return {}


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where yaml was built with it


def _options(config: dict[str, Any], group: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        name = group if key in ("class_path", "init_args") and group else f"{group}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _options(value, name)
        else:
            yield strip_control_characters(name), value


def find_runs(folder: Path) -> list[Path]:
    """All run folders at and under a folder, behind links too; each once."""
    found: list[Path] = []
    seen: set[str] = set()
    places = [str(folder)]
    for place in places:  # grows by the links: what lies here has its own name first
        for path, folders, files in os.walk(place):
            real = os.path.realpath(path)
            is_run = not MARKS.isdisjoint(files) or "checkpoints" in folders
            if is_run and real not in seen:
                found.append(Path(path))
            if is_run or real in seen:  # what is in a run is no run
                folders.clear()
            seen.add(real)
            places += filter(os.path.islink, (os.path.join(path, name) for name in folders))
    return found


def sort_by_start(runs: Iterable[Run]) -> list[Run]:
    """Runs by the time they began; of one second, by their names and numbers."""
    return sorted(runs, key=lambda run: (run.record.started, natural_key(str(run.path))))


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key that puts version_9 before version_10."""
    return [(int(part or 0) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def find_run(name: str, root: Path = RUNS) -> Path:
    """Finds a run by its folder, by the end of that, or by a folder above it: then the newest in there.

    Raises:
        FileNotFoundError: If there is none.
    """
    for folder in (Path(name), root / name):
        if folder.is_dir() and (runs := find_runs(folder)):
            return runs[0] if len(runs) == 1 else sort_by_start(map(Run.read, runs))[-1].path
    known = {str(path.relative_to(root)) for path in find_runs(root)}
    known |= {path.split(os.sep)[0] for path in known}
    raise FileNotFoundError(f"there is no run {name}{suggest(name, known) or f': {program_name()} runs lists them'}")
