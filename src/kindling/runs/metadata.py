"""What a run says of itself: `run.json` in its folder, or where that is missing, what its other files tell."""

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, get_args, get_origin, get_type_hints

import psutil

from kindling import __version__
from kindling.runs.find import read_text
from kindling.runs.history import DAMAGED, best_epoch, read_history
from kindling.utils.files import atomic_write
from kindling.utils.text import strip_control_characters

FILE, TEST = "run.json", "test_metrics.json"
HEARTBEAT_TIMEOUT = (
    600  # seconds without a word after which a run on another host counts as dead; it says one every half minute
)


@dataclass
class RunMetadata:
    """What is known of a run; what is not is None or empty.

    Attributes:
        recipe: Names of the recipe and of what was put on top of it, with + between them.
        commands: What was typed, once for each time the run began or went on.
        commits: The commit of git by which each of the commands ran.
        threads: The threads that torch took in each of them; 0 where that is not known.
        status: running, finished, stopped or failed, as the run said last; `status_of` knows whether that still holds.
        started: When it began, ISO 8601 in UTC.
        seen: When it last wrote this.
        seconds: Time spent training and validating, of all sessions.
        process: Where it runs: host, pid, and the time when that process began.
        epochs: Epochs done.
        planned: Epochs asked for.
        monitor: The figure that says which epoch is the best.
        best: Validation figures of the best epoch, and `epoch`, counted from 1.
        commit: Of the working directory's git repository, in full; empty where it is in none.
        changed: Whether the files differed from that commit.
        came_from: The checkpoint of another run from which this one began.
        reason: Why it failed, in a line.
        altered: Whether it went on with other settings, another commit or other threads than it had begun with.
        tested: Whether `fit` has tested its best checkpoint; None in records of older versions.
        versions: Of what computes.
    """

    recipe: str = ""
    commands: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    status: str = ""
    started: str = ""
    seen: str = ""
    seconds: float | int | None = None
    process: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    planned: int | None = None
    monitor: str = "val/loss"
    best: dict[str, float | int | None] = field(default_factory=dict)
    commit: str = ""
    changed: bool = False
    came_from: str = ""
    reason: str = ""
    altered: bool = False
    tested: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> Self:
        """Reads the record of a run; of a damaged one what is whole, of a run without one what other files tell."""
        stored = read_json(run / FILE)
        whole = {name: stored[name] for name, kind in KINDS.items() if name in stored and _is(stored[name], kind)}
        for name in ("started", "seen"):
            if not _is_time(whole.get(name, "")):
                del whole[name]
        if whole.get("status") == "running" and _is_copy(whole.get("process", {}), run):
            whole["status"] = "failed"
        if whole and whole.get("tested") is None:
            whole["tested"] = (run / TEST).exists()
        return cls(**whole) if whole else cls(**_from_files(run))

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the best checkpoint, counted from 1."""
        epoch = self.best.get("epoch")
        return int(epoch) if isinstance(epoch, int | float) else None

    def is_complete(self, tests: bool) -> bool:
        """Whether all is done that `fit` does, with or without a test at its end."""
        return self.status == "finished" and (not tests or bool(self.tested))

    def write(self, run: Path) -> None:
        """Writes it into the folder of a run; a figure that is NaN is null."""
        best = {name: value if value is None or math.isfinite(value) else None for name, value in self.best.items()}
        with atomic_write(run / FILE) as path:
            path.write_text(json.dumps(asdict(self) | {"best": best}, indent=2, allow_nan=False) + "\n", "utf-8")


KINDS = get_type_hints(RunMetadata)


def _is(value: object, kind: Any) -> bool:
    if get_origin(kind) not in (list, dict):
        return isinstance(value, kind)
    *_, item = get_args(kind)
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, get_origin(kind)) and (item is Any or all(isinstance(one, item) for one in held))


def _is_time(text: str) -> bool:
    """Whether a text is a time that can be compared with others and shown as a local one; nothing is too."""
    with suppress(ValueError):
        moment = datetime.fromisoformat(text) if text else datetime.now(UTC)
        return moment.tzinfo is not None and 1970 < moment.year < 3000
    return False


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, tidied; nothing where the file is missing or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        stored = _tidied(json.loads(read_text(path)))
        return stored if isinstance(stored, dict) else {}
    return {}


def _tidied(value: Any) -> Any:
    """What JSON held, without what a terminal would obey; null for a number that is no finite float."""
    match value:
        case str():
            return strip_control_characters(value)
        case int() | float():
            return value if abs(value) <= sys.float_info.max else None
        case list():
            return [_tidied(one) for one in value]
        case dict():
            return {strip_control_characters(name): _tidied(one) for name, one in value.items()}
    return value


def _from_files(run: Path) -> dict[str, Any]:
    """The record of a run that wrote none. A folder `runs/quickstart/version_0` is of the recipe quickstart."""
    record: dict[str, Any] = {"recipe": run.parent.name}
    with suppress(OSError, ValueError):
        record["started"] = utc_timestamp(os.path.getmtime(run / "config.yaml"))
        if found := re.search(r"^checkpoint:\n +monitor: (\S+)", read_text(run / "config.yaml"), re.MULTILINE):
            record["monitor"] = found[1]
    with suppress(*DAMAGED):
        history = read_history(run / "metrics.csv")
        record["seen"] = utc_timestamp(os.path.getmtime(run / "metrics.csv"))
        record["epochs"] = len(history["train/loss"])
        monitor = record.get("monitor", "val/loss")
        if (best := best_epoch(history[monitor], lower=is_lower_better(monitor))) is not None:
            told = [name for name in history if name.startswith("val/") or name == monitor]
            figures = {strip_control_characters(name): history[name][best] for name in told if best in history[name]}
            record["best"] = {"epoch": best + 1} | figures
    return record


def is_lower_better(figure: str) -> bool:
    """Whether less of a figure is better, as far as its name tells."""
    return figure.endswith(("loss", "error", "mae", "mse"))


def check_is_free(run: Path) -> None:
    """Raises ValueError where another process trains in a run folder."""
    record = RunMetadata.read(run)
    if status_of(record) == "running" and record.process.get("pid") != os.getpid():
        where = f"process {record.process.get('pid')} on {record.process.get('host')}"
        raise ValueError(f"{run} is still being trained ({where}): wait for it or stop it first")


def status_of(record: RunMetadata) -> str:
    """The status of a run as it is now: one that says it is running may have been killed."""
    if record.status != "running":
        return record.status
    process = record.process
    if process.get("host") != platform.node():
        with suppress(ValueError):
            silent = datetime.now(UTC) - datetime.fromisoformat(record.seen)
            return (
                "running" if abs(silent.total_seconds()) < HEARTBEAT_TIMEOUT else "failed"
            )  # its clock may be set back
    with suppress(psutil.Error, KeyError, TypeError, ValueError):
        # The number may have gone to another process since. When the clock is set, so is the time of booting.
        began = psutil.Process(process["pid"]).create_time()
        after_boot = began - psutil.boot_time()
        if abs(began - process["began"]) < 5 or abs(after_boot - process.get("after_boot", -1.0)) < 0.1:
            return "running"
    return "failed"


def process_info(run: Path) -> dict[str, Any]:
    """Where this process runs and what it trains, as `status_of` and `Record.read` ask for it."""
    began = psutil.Process().create_time()
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "began": round(began, 2),
        "after_boot": round(began - psutil.boot_time(), 2),
        "folder": [str(run.resolve()), run.stat().st_ino],
    }


def _is_copy(process: dict[str, Any], run: Path) -> bool:
    """Whether a run folder is a copy of the one that a process trains, which may be moved meanwhile."""
    path, inode = process.get("folder") or (None, None)
    return None not in (path, inode) and str(run.resolve()) != path and run.stat().st_ino != inode


def utc_timestamp(seconds: float | None = None) -> str:
    """A time, by default now, as ISO 8601 in UTC to the second."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="seconds")


def git_commit() -> tuple[str, bool]:
    """Return the commit of the working directory's git repository, and whether files differ from it.

    Empty where it is in no repository: the version of an installed Kindling is in `versions`.
    """
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "status", "--porcelain=v2", "--branch"]
        # Whoever works with git meanwhile is not locked out.
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        lines = subprocess.run(command, capture_output=True, check=True, timeout=2, env=environment).stdout
        head, *_ = re.findall(rb"^# branch\.oid ([0-9a-f]+)$", lines, re.MULTILINE) or [b""]
        return head.decode(), any(not line.startswith(b"#") for line in lines.splitlines())
    return "", False


def versions() -> dict[str, str]:
    """The versions of what computes, as they are installed."""
    found = {"kindling": __version__}
    for name in ("torch", "lightning"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def recipe_name(configs: Sequence[Path]) -> str:
    """What the files given as --config are called together; the `config.yaml` of a run as that run's folder."""
    return "+".join(path.parent.parent.name if path.name == "config.yaml" else path.stem for path in configs)
