"""Find run folders and read them."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import yaml

from kindling.runs.folders import RUN_FILES, RUNS
from kindling.runs.history import READ_ERRORS, read_history
from kindling.runs.metadata import FILE, FORMAT, TEST, RunMetadata, status_of
from kindling.runs.metric_names import standard_name
from kindling.runs.text_files import read_json, read_text
from kindling.runs.untrusted_config import check_size
from kindling.utils.console import say
from kindling.utils.text import natural_key, program_name, strip_control_characters, suggest

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, if available: ten times as fast


@dataclass(frozen=True)
class Run:
    """The current state of a run.

    Attributes:
        path: Run folder.
        metadata: Content of `run.json`.
        status: running, finished, stopped or failed; empty if unknown.
        test: Test metrics by name.
    """

    path: Path
    metadata: RunMetadata
    status: str
    test: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a run folder; missing or damaged files are skipped, and a format that is too new causes a warning."""
        metadata, tested = RunMetadata.read(path), read_json(path / TEST)
        if metadata.format > FORMAT:
            _warn_of_format(path.parent, metadata.format)
        metrics = {standard_name(name): value for name, value in tested.items() if isinstance(value, float | int)}
        return cls(path, metadata, status_of(metadata), metrics)

    def metric(self, name: str) -> float | None:
        """Return a validation metric of the best epoch, or a test metric."""
        value = (self.test | self.metadata.best).get(name)
        return value if isinstance(value, float | int) else None

    def history(self) -> dict[str, dict[int, float]]:
        """Return the metrics by epoch; empty if `metrics.csv` is missing or damaged."""
        with suppress(*READ_ERRORS):
            return read_history(self.path / "metrics.csv")
        return {}

    def settings(self) -> dict[str, Any]:
        """Return `config.yaml` as flat options: {"model": "kindling.CNNClassifier", "model.channels": [32], ...}."""
        with suppress(OSError, yaml.YAMLError, ValueError, RecursionError):
            config = yaml.load(read_text(self.path / "config.yaml"), YAML_LOADER)
            check_size(config)
            return flatten_config(config) if isinstance(config, dict) else {}
        return {}


@cache
def _warn_of_format(folder: Path, version: int) -> None:
    """Print once for each folder of runs that values may be missing or have another meaning."""
    text = f"{folder}: {FILE} of some runs has format {version}, not {FORMAT}: update Kindling to read it correctly"
    say(text, stderr=True)


def flatten_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a config by their dotted names, without class_path and init_args."""
    return dict(_options(config))


def _options(config: dict[str, Any], group: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        name = group if key in ("class_path", "init_args") and group else f"{group}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _options(value, name)
        else:
            yield strip_control_characters(name), value


def find_runs(folder: Path) -> list[Path]:
    """Return all run folders in a folder, including itself; links are followed, and each run is returned once.

    Hidden folders are skipped.
    """
    found: list[Path] = []
    seen: set[str] = set()
    roots = [str(folder)]
    for root in roots:  # links are appended, so that runs are found by their real paths first
        for path, folders, files in os.walk(root):
            real = os.path.realpath(path)
            is_run = any(name in files for name in RUN_FILES)
            if is_run and real not in seen:
                found.append(Path(path))
            if is_run or real in seen:  # runs are not nested
                folders.clear()
            seen.add(real)
            folders[:] = [name for name in folders if not name.startswith(".")]  # such as .venv
            roots += filter(os.path.islink, (os.path.join(path, name) for name in folders))
    return found


def sort_by_start(runs: Iterable[Run]) -> list[Run]:
    """Sort runs by their start time, then by name and version."""
    return sorted(runs, key=lambda run: (run.metadata.started, natural_key(str(run.path))))


def find_run(name: str) -> Path:
    """Return a run folder, or the newest of the runs in a folder, given the path of either, with or without `runs/`.

    Raises:
        FileNotFoundError: If there is none.
    """
    for folder in (Path(name), RUNS / name):
        if folder.is_dir() and (runs := find_runs(folder)):
            return runs[0] if len(runs) == 1 else sort_by_start(map(Run.read, runs))[-1].path
    raise FileNotFoundError(describe_missing_run(name))


def describe_missing_run(name: str) -> str:
    """Return one line about a run that does not exist, with the run, or folder of runs, whose path is most similar."""
    paths = {inner for path in find_runs(RUNS) for inner in (path, *path.parents) if RUNS in inner.parents}
    is_whole = Path(name).is_relative_to(RUNS)
    known = [str(path if is_whole else path.relative_to(RUNS)) for path in sorted(paths)]
    return f"there is no run {name}{suggest(name, known) or f': {program_name()} runs lists them'}"
