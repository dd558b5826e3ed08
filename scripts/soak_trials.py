"""One trial: a run that is killed, resumed and compared, for `soak.py`."""

import json
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kindling.runs.metadata import RunMetadata
from soak_compare import differences, read_checkpoint
from soak_configs import CONFIGS
from soak_process import Kill, Outcome, run

MOMENTS = ("time", "save", "validation", "twice", "test", "write", "time", "train", "save", "twice")
SINGLE = tuple(moment for moment in MOMENTS if moment != "twice")
SIGNALS = ("KILL", "KILL", "KILL", "TERM", "INT", "TERM+KILL")
FRESH = 20  # one in so many trials starts new Python processes
LOST_PARENT = ("ConnectionResetError", "BrokenPipeError", "EOFError")
TRIES = 6  # attempts to kill a session before it ends


class Trial(NamedTuple):
    """A run that is killed once or twice.

    Attributes:
        config: Name of the configuration.
        number: Number of the trial among those of its configuration.
        kills: The kill of each session.
        fresh: Whether it starts new Python processes.
    """

    config: str
    number: int
    kills: tuple[Kill, ...]
    fresh: bool


class Reference(NamedTuple):
    """A run that is never killed, with which the others are compared.

    Attributes:
        run: Run folder.
        seconds: Duration.
        counts: Number of events by name.
    """

    run: Path
    seconds: float
    counts: dict[str, int]


class Result(NamedTuple):
    """Result of a trial: the faults, and the kills that hit the run."""

    trial: Trial
    faults: list[str]
    hits: list[Kill]


def plan(name: str, number: int, seed: int) -> Trial:
    """Draw the kills of a trial: the same for the same arguments."""
    chance, moment = random.Random(f"{seed} {name} {number}"), MOMENTS[number % len(MOMENTS)]
    moments = [moment] if moment != "twice" else chance.choices(SINGLE, k=2)
    kills = tuple(draw(chance, each, CONFIGS[name].processes) for each in moments)
    return Trial(name, number, kills, CONFIGS[name].processes > 1 or number % FRESH == FRESH - 1)


def draw(chance: random.Random, event: str, processes: int) -> Kill:
    """Draw when and how a process is killed."""
    signals = chance.choice(SIGNALS)
    delay = chance.uniform(0, 0.3) if "+" in signals else chance.choice([0.0, chance.uniform(0, 0.005)])
    ranks = [*range(processes), *[None] * (processes > 1 and event == "time")]  # else a process signals itself
    return Kill(event, chance.random(), signals, delay, chance.choice(ranks))


def attempts(kill: Kill, trial: Trial) -> Iterator[Kill]:
    """Yield a kill, then earlier and earlier ones to try if a session ends before it is hit.

    A resumed session has fewer events than a whole run: if only its test is left, it has no training batch.
    """
    chance = random.Random(f"{trial} {kill}")
    yield kill
    yield kill._replace(at=kill.at / 2)
    for attempt in range(2, TRIES):
        other = draw(chance, chance.choice(SINGLE), CONFIGS[trial.config].processes)
        yield other._replace(at=other.at / 2**attempt)


def train_reference(name: str, folder: Path, data: Path) -> Reference:
    """Train a configuration without a kill.

    Args:
        name: Name of the configuration.
        folder: Folder for its files.
        data: Folder filled by `write_data`.

    Raises:
        RuntimeError: If the run fails.
    """
    config, counts = CONFIGS[name], folder.with_suffix(".json")
    folder.mkdir(parents=True)
    outcome = run(config.command(data), folder, {"SOAK_COUNTS": str(counts)}, fresh=config.processes > 1)
    if outcome.code:
        raise RuntimeError(f"{name} fails without a kill:\n{outcome.output[-2000:]}")
    return Reference(folder / "runs/soak/version_0", outcome.seconds, json.loads(counts.read_text()))


def run_trial(trial: Trial, reference: Reference, folder: Path, data: Path) -> Result:
    """Kill a run, resume it, and compare it with the reference run.

    Args:
        trial: The trial.
        reference: The reference run.
        folder: Folder for its files.
        data: Folder filled by `write_data`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with temporary_folder(CONFIGS[trial.config].temporary or folder.parent) as temporary:
        training = Training(folder, temporary, CONFIGS[trial.config].command(data), reference, trial.fresh)
        for kill in trial.kills:
            training.kill(attempts(kill, trial))
        training.finish()
    return Result(trial, training.faults, training.hits)


@contextmanager
def temporary_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """Make a folder, and remove it at the end.

    Unlike `tempfile.TemporaryDirectory`, it is not removed when a process ends that was forked in the meantime.
    """
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Training:
    """A run in several sessions.

    Args:
        folder: The working directory.
        temporary: Value of `$TMPDIR`.
        command: Options of `kindling` that start it.
        reference: The reference run.
        fresh: Whether it starts new Python processes.

    Attributes:
        faults: Descriptions of everything that went wrong.
        hits: The kills that hit a process.
    """

    def __init__(
        self, folder: Path, temporary: Path, command: Sequence[str], reference: Reference, fresh: bool = False
    ) -> None:
        self.folder, self.temporary, self.command, self.reference = folder, temporary, command, reference
        self.fresh = fresh
        self.faults: list[str] = []
        self.hits: list[Kill] = []

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs/soak/version_0"

    @property
    def is_complete(self) -> bool:
        """Whether the run is finished and tested according to `run.json`; `fit` refuses to resume it then."""
        return RunMetadata.read(self.run).is_complete(tests=True)

    def kill(self, kills: Iterable[Kill]) -> None:
        """Run a session and kill it, unless the run is complete already.

        Args:
            kills: The kill, and others to try with the same files if the session ends before it is hit.
        """
        if self.is_complete:
            return
        before = self.folder.with_suffix(".before")
        shutil.copytree(self.folder, before)
        for attempt, kill in enumerate(kills):
            if attempt:
                shutil.rmtree(self.folder)
                shutil.copytree(before, self.folder)
            outcome = self._run_session(kill)
            is_late = kill.event == "time" and not outcome.code and self.is_complete
            if outcome.hit and not is_late:
                self.hits.append(kill)
                break
            self._check_success(outcome, f"{kill}, which did not hit it")
        shutil.rmtree(before)

    def finish(self) -> None:
        """Resume the run unless it is complete, and compare it with the reference run."""
        if not self.hits:
            self.faults.append("no kill hit the run")
        if not self.is_complete:
            self._check_success(self._run_session(), "resumed")
        others = [path for path in self.folder.iterdir() if path.name != "runs"] + [*self.temporary.iterdir()]
        self.faults += differences(self.reference.run, self.run) + [f"{path.name} is left over" for path in others]

    def _run_session(self, kill: Kill | None = None) -> Outcome:
        if (self.run / "checkpoints/last.ckpt").exists():
            options = ["fit", "--ckpt_path", "runs/soak/version_0"]
        else:  # killed before its first checkpoint: it starts again, in the same folder
            shutil.rmtree(self.folder / "runs", ignore_errors=True)
            options = [*self.command]
        environment = {"TMPDIR": str(self.temporary)} | (kill.environment(self.reference.counts) if kill else {})
        outcome = run(options, self.folder, environment, kill, self.reference.seconds, self.fresh)
        self._check_session(outcome, kill)
        return outcome

    def _check_session(self, outcome: Outcome, kill: Kill | None) -> None:
        what = str(kill or "resumed")
        if outcome.hangs:
            self.faults.append(f"{what}: hangs")
        if outcome.orphans:
            self.faults.append(f"{what}: processes outlive the first one")
        # A data worker that was passing on a batch when the main process was killed may print one.
        is_of_worker = kill and "KILL" in kill.signals and outcome.last_line.startswith(LOST_PARENT)
        if "Traceback" in outcome.output and not is_of_worker:
            self.faults.append(f"{what}: traceback, {outcome.last_line}")
        for path in self.run.glob("checkpoints/*.ckpt"):
            try:
                read_checkpoint(path)
            except Exception as error:  # a damaged file may cause any error
                self.faults.append(f"{what}: {path.name} can't be read, {error}")

    def _check_success(self, outcome: Outcome, what: str) -> None:
        if outcome.code:
            self.faults.append(f"{what}: exit code {outcome.code}, {outcome.last_line}")
