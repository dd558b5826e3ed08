"""One training that is killed, resumed and compared, for `soak.py`."""

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
FRESH = 20  # of so many trials, one starts Python anew
LOST_PARENT = ("ConnectionResetError", "BrokenPipeError", "EOFError")
TRIES = 6  # to kill a session before it ends


class Trial(NamedTuple):
    """A training that is killed once or twice.

    Attributes:
        config: Name of its configuration.
        number: Its number among those of the configuration.
        kills: How it is killed, session by session.
        fresh: Whether its processes start Python anew.
    """

    config: str
    number: int
    kills: tuple[Kill, ...]
    fresh: bool


class Straight(NamedTuple):
    """A training that is never killed.

    Attributes:
        run: Its run folder.
        seconds: How long it took.
        counts: The number of its events by name.
    """

    run: Path
    seconds: float
    counts: dict[str, int]


class Result(NamedTuple):
    """What came of a trial: the faults, and the kills that hit the training."""

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
    """Yield a kill and others, earlier and earlier, to try where a session ends before it is hit.

    A resumed session has fewer events than a whole training: one that has only its test left trains no batch.
    """
    chance = random.Random(f"{trial} {kill}")
    yield kill
    yield kill._replace(at=kill.at / 2)
    for attempt in range(2, TRIES):
        other = draw(chance, chance.choice(SINGLE), CONFIGS[trial.config].processes)
        yield other._replace(at=other.at / 2**attempt)


def train_straight(name: str, folder: Path, data: Path) -> Straight:
    """Train a configuration without a kill.

    Args:
        name: Of the configuration.
        folder: For its files.
        data: What `write_data` has filled.

    Raises:
        RuntimeError: If the training fails.
    """
    config, counts = CONFIGS[name], folder.with_suffix(".json")
    folder.mkdir(parents=True)
    outcome = run(config.command(data), folder, {"SOAK_COUNTS": str(counts)}, fresh=config.processes > 1)
    if outcome.code:
        raise RuntimeError(f"{name} fails without a kill:\n{outcome.output[-2000:]}")
    return Straight(folder / "runs/soak/version_0", outcome.seconds, json.loads(counts.read_text()))


def run_trial(trial: Trial, straight: Straight, folder: Path, data: Path) -> Result:
    """Kill a training, resume it, and compare it with the straight one.

    Args:
        trial: When it is killed.
        straight: What it is compared with.
        folder: For its files.
        data: What `write_data` has filled.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with temporary_folder(CONFIGS[trial.config].temporary or folder.parent) as temporary:
        training = Training(folder, temporary, CONFIGS[trial.config].command(data), straight, trial.fresh)
        for kill in trial.kills:
            training.kill(attempts(kill, trial))
        training.finish()
    return Result(trial, training.faults, training.hits)


@contextmanager
def temporary_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """Make a folder, and remove it at the end.

    `tempfile.TemporaryDirectory` would be removed at the end of each process that was forked meanwhile.
    """
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Training:
    """A training in several sessions.

    Args:
        folder: The working directory.
        temporary: For `$TMPDIR`.
        command: Options of `kindling` that start it.
        straight: The same training without a kill.
        fresh: Whether its processes start Python anew.

    Attributes:
        faults: What went wrong.
        hits: The kills that hit a process.
    """

    def __init__(
        self, folder: Path, temporary: Path, command: Sequence[str], straight: Straight, fresh: bool = False
    ) -> None:
        self.folder, self.temporary, self.command, self.straight = folder, temporary, command, straight
        self.fresh = fresh
        self.faults: list[str] = []
        self.hits: list[Kill] = []

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs/soak/version_0"

    @property
    def is_complete(self) -> bool:
        """Whether its record says that the training is finished and tested: `fit` refuses to resume it then."""
        return RunMetadata.read(self.run).is_complete(tests=True)

    def kill(self, kills: Iterable[Kill]) -> None:
        """Run a session and kill it, unless the training is complete already.

        Args:
            kills: The kill, and others to try, each from the same files, if the session ends before it is hit.
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
        """Resume the training unless it is complete, and compare it with the straight one."""
        if not self.hits:
            self.faults.append("no kill hit the training")
        if not self.is_complete:
            self._check_success(self._run_session(), "resumed")
        others = [path for path in self.folder.iterdir() if path.name != "runs"] + [*self.temporary.iterdir()]
        self.faults += differences(self.straight.run, self.run) + [f"{path.name} is left over" for path in others]

    def _run_session(self, kill: Kill | None = None) -> Outcome:
        if (self.run / "checkpoints/last.ckpt").exists():
            options = ["fit", "--ckpt_path", "runs/soak/version_0"]
        else:  # killed before its first checkpoint: it begins again, in the same folder
            shutil.rmtree(self.folder / "runs", ignore_errors=True)
            options = [*self.command]
        environment = {"TMPDIR": str(self.temporary)} | (kill.environment(self.straight.counts) if kill else {})
        outcome = run(options, self.folder, environment, kill, self.straight.seconds, self.fresh)
        self._check_session(outcome, kill)
        return outcome

    def _check_session(self, outcome: Outcome, kill: Kill | None) -> None:
        what = str(kill or "resumed")
        if outcome.hangs:
            self.faults.append(f"{what}: hangs")
        if outcome.orphans:
            self.faults.append(f"{what}: processes outlive the first one")
        # A data worker may print one that was handing over a batch when the main process was killed.
        is_of_worker = kill and "KILL" in kill.signals and outcome.last_line.startswith(LOST_PARENT)
        if "Traceback" in outcome.output and not is_of_worker:
            self.faults.append(f"{what}: traceback, {outcome.last_line}")
        for path in self.run.glob("checkpoints/*.ckpt"):
            try:
                read_checkpoint(path)
            except Exception as error:  # whatever a damaged file makes of its reader
                self.faults.append(f"{what}: {path.name} can't be read, {error}")

    def _check_success(self, outcome: Outcome, what: str) -> None:
        if outcome.code:
            self.faults.append(f"{what}: exit code {outcome.code}, {outcome.last_line}")
