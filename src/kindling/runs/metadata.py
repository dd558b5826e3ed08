"""Metadata of a run: `run.json` in its folder, or without it, what its other files contain."""

import math
import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, get_args, get_origin, get_type_hints

from kindling import __version__
from kindling.runs.history import READ_ERRORS, best_epoch, read_history
from kindling.runs.process import is_alive, is_copy, process_info
from kindling.runs.text_files import read_json, read_text
from kindling.utils.files import write_json
from kindling.utils.text import strip_control_characters

FILE, TEST = "run.json", "test_metrics.json"
FORMAT = 1  # of run.json; raised when a field changes its meaning or is removed, not when one is added
RENAMED = {"seen": "heartbeat", "planned": "max_epochs", "came_from": "parent", "altered": "modified"}  # since 0.1.0


@dataclass
class RunMetadata:
    """Content of `run.json`; unknown values are None or empty.

    Attributes:
        format: Version of the format; 1 for a file without it.
        recipe: Names of the config files, joined by +.
        commands: Command lines: of the start and of each resume.
        commits: Git commit of each command.
        threads: Number of torch's threads in each command; 0 if unknown.
        status: running, finished, stopped or failed, when last written; `status_of` returns the current status.
        started: Start time, ISO 8601 in UTC.
        heartbeat: Time of the last write.
        seconds: Time spent training and validating, in all sessions.
        process: Host, pid and start time of the process.
        epochs: Completed epochs.
        max_epochs: Epochs to train.
        monitor: Metric that determines the best epoch.
        best: Validation metrics of the best epoch, and `epoch`, counted from 1.
        commit: Full git commit of the working directory; empty outside of a repository.
        changed: Whether there were uncommitted changes.
        parent: Checkpoint of another run from which this one started.
        reason: Error message of a failed run, in one line; or when a trial was pruned.
        modified: Whether the run was resumed with other settings, another commit or another number of threads.
        tested: Whether `fit` has tested its best checkpoint; None in files of older versions.
        versions: Versions of Kindling, torch and Lightning.
        trackers: IDs of the run in W&B and MLflow, by the class of the logger; a further one of the class has a number.
    """

    format: int = FORMAT
    recipe: str = ""
    commands: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    status: str = ""
    started: str = ""
    heartbeat: str = ""
    seconds: float | int | None = None
    process: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    max_epochs: int | None = None
    monitor: str = "val/loss"
    best: dict[str, float | int | None] = field(default_factory=dict)
    commit: str = ""
    changed: bool = False
    parent: str = ""
    reason: str = ""
    modified: bool = False
    tested: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    trackers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> Self:
        """Read the metadata of a run: the valid values of `run.json`, or without any, what the other files contain."""
        stored = {RENAMED.get(name, name): value for name, value in read_json(run / FILE).items()}
        valid = {n: stored[n] for n, kind in FIELD_TYPES.items() if n in stored and _has_type(stored[n], kind)}
        for name in ("started", "heartbeat"):
            if not _is_timestamp(valid.get(name, "")):
                del valid[name]
        if valid.get("status") == "running" and is_copy(valid.get("process", {}), run):
            valid["status"] = "failed"
        if valid and valid.get("tested") is None:
            valid["tested"] = (run / TEST).exists()
        return cls(**(valid or _infer_from_files(run)))

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch of the best checkpoint, counted from 1."""
        epoch = self.best.get("epoch")
        return int(epoch) if isinstance(epoch, int | float) else None

    def is_complete(self, tests: bool) -> bool:
        """Return whether `fit` has finished, including its test if `tests` is set."""
        return self.status == "finished" and (not tests or bool(self.tested))

    def write(self, run: Path) -> None:
        """Write `run.json`; metrics that are not finite become null."""
        best = {name: value if value is None or math.isfinite(value) else None for name, value in self.best.items()}
        write_json(run / FILE, asdict(self) | {"best": best})


FIELD_TYPES = get_type_hints(RunMetadata)


def _has_type(value: object, kind: Any) -> bool:
    """Return whether a value has a type; for lists and dicts, also whether all items have theirs."""
    if get_origin(kind) not in (list, dict):
        return isinstance(value, kind)
    *_, item = get_args(kind)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, get_origin(kind)) and (item is Any or all(isinstance(each, item) for each in items))


def _is_timestamp(text: str) -> bool:
    """Return whether a string is empty or a valid time with a time zone."""
    with suppress(ValueError):
        time = datetime.fromisoformat(text) if text else datetime.now(UTC)
        return time.tzinfo is not None and 1970 < time.year < 3000
    return False


def _infer_from_files(run: Path) -> dict[str, Any]:
    """Return the metadata of a run without `run.json`; `runs/quickstart/version_0` has the recipe quickstart."""
    metadata: dict[str, Any] = {"recipe": run.parent.name}
    with suppress(OSError, ValueError):
        metadata["started"] = utc_timestamp(os.path.getmtime(run / "config.yaml"))
        if found := re.search(r"^checkpoint:\n +monitor: (\S+)", read_text(run / "config.yaml"), re.MULTILINE):
            metadata["monitor"] = found[1]
    with suppress(*READ_ERRORS):
        history = read_history(run / "metrics.csv")
        metadata["heartbeat"] = utc_timestamp(os.path.getmtime(run / "metrics.csv"))
        metadata["epochs"] = len(history["train/loss"])
        monitor = metadata.get("monitor", "val/loss")
        if (best := best_epoch(history[monitor], lower=is_lower_better(monitor))) is not None:
            names = [name for name in history if name.startswith("val/") or name == monitor]
            metrics = {strip_control_characters(name): history[name][best] for name in names if best in history[name]}
            metadata["best"] = {"epoch": best + 1} | metrics
    return metadata


def is_lower_better(metric: str) -> bool:
    """Return whether lower values of a metric are better, judging by its name."""
    return metric.endswith(("loss", "error", "mae", "mse"))


def _check_format(run: Path, metadata: RunMetadata) -> None:
    """Raise ValueError if a later version of Kindling wrote `run.json`, which this one must not overwrite."""
    if metadata.format > FORMAT:
        raise ValueError(f"{run / FILE} has format {metadata.format}, not {FORMAT}: update Kindling to resume the run")


def check_is_free(run: Path) -> None:
    """Raise ValueError if another process is training in a run folder, or if its format is too new."""
    metadata = RunMetadata.read(run)
    _check_format(run, metadata)
    if status_of(metadata) == "running" and metadata.process.get("pid") != os.getpid():
        where = f"process {metadata.process.get('pid')} on {metadata.process.get('host')}"
        raise ValueError(f"{run} is still being trained ({where}): wait for it or stop it first")


def claim(run: Path, metadata: RunMetadata) -> None:
    """Record that this process is about to train in a run folder, so that no other one does."""
    _check_format(run, metadata)
    metadata.status, metadata.heartbeat, metadata.process = "running", utc_timestamp(), process_info(run)
    metadata.write(run)


def status_of(metadata: RunMetadata) -> str:
    """Return the current status of a run: failed if its process is gone."""
    is_dead = metadata.status == "running" and not is_alive(metadata.process, metadata.heartbeat)
    return "failed" if is_dead else metadata.status


def utc_timestamp(seconds: float | None = None) -> str:
    """Return a Unix time, by default the current one, as ISO 8601 in UTC."""
    time = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return time.isoformat(timespec="seconds")


def git_commit() -> tuple[str, bool]:
    """Return the git commit of the working directory, empty outside of a repository, and whether files differ."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "status", "--porcelain=v2", "--branch"]
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # don't block other git commands
        lines = subprocess.run(command, capture_output=True, check=True, timeout=2, env=environment).stdout
        head, *_ = re.findall(rb"^# branch\.oid ([0-9a-f]+)$", lines, re.MULTILINE) or [b""]
        return head.decode(), any(not line.startswith(b"#") for line in lines.splitlines())
    return "", False


def versions() -> dict[str, str]:
    """Return the installed versions of Kindling, torch and Lightning."""
    found = {"kindling": __version__}
    for name in ("torch", "lightning"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def recipe_name(configs: Sequence[Path]) -> str:
    """Return the names of config files joined by +; the `config.yaml` of a run has the name of the run."""
    return "+".join(path.parent.parent.name if path.name == "config.yaml" else path.stem for path in configs)
