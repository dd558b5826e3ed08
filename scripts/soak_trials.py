"""One training that is killed, resumed and compared, for `soak.py`."""

import json
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from soak_compare import differences, read_checkpoint
from soak_configs import CONFIGS
from soak_process import Kill, Outcome, run

MOMENTS = ("time", "save", "validation", "twice", "test", "write", "time", "train", "save", "twice")
SIGNALS = ("KILL", "KILL", "KILL", "TERM", "INT", "TERM+KILL")
FRESH = 20  # of so many trials, one starts Python anew
TRIES = 5  # to kill a training before it ends


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
    """What came of a trial: the faults, and how many of the kills ended the process."""

    trial: Trial
    faults: list[str]
    killed: int


def plan(name: str, number: int, seed: int) -> Trial:
    """Draw the kills of a trial: the same for the same arguments."""
    chance, moment = random.Random(f"{seed} {name} {number}"), MOMENTS[number % len(MOMENTS)]
    moments = [moment] if moment != "twice" else chance.choices([each for each in MOMENTS if each != "twice"], k=2)
    kills = tuple(draw(chance, each, CONFIGS[name].processes) for each in moments)
    return Trial(name, number, kills, CONFIGS[name].processes > 1 or number % FRESH == FRESH - 1)


def draw(chance: random.Random, event: str, processes: int) -> Kill:
    """Draw when and how a process is killed."""
    signals = chance.choice(SIGNALS)
    delay = chance.uniform(0, 0.3) if "+" in signals else chance.choice([0.0, chance.uniform(0, 0.005)])
    ranks = [*range(processes), *[None] * (processes > 1 and event == "time")]  # else a process signals itself
    return Kill(event, chance.random(), signals, delay, chance.choice(ranks))


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
    for attempt in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with temporary_folder(CONFIGS[trial.config].temporary or folder.parent) as temporary:
            training = Training(folder, temporary, CONFIGS[trial.config].command(data), straight)
            for kill in trial.kills:
                training.kill(kill._replace(at=kill.at * 0.7**attempt) if attempt else kill, trial.fresh)
            training.finish(trial.fresh)
        if training.killed or training.faults or trial.kills[0].event != "time":
            break  # else it had ended before the signal came
    return Result(trial, training.faults, training.killed)


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

    Attributes:
        faults: What went wrong.
        killed: How many kills ended the process.
    """

    def __init__(self, folder: Path, temporary: Path, command: Sequence[str], straight: Straight) -> None:
        self.folder, self.temporary, self.command, self.straight = folder, temporary, command, straight
        self.faults: list[str] = []
        self.killed = 0

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs/soak/version_0"

    def kill(self, kill: Kill, fresh: bool) -> None:
        """Run a session and kill it, unless the training is finished already."""
        if not self._is_finished():
            outcome = self._run_session(fresh, kill)
            self.killed += outcome.code != 0
            self._check_checkpoints(kill)
            if kill.signals in ("INT", "TERM") and "Traceback" in outcome.output:
                self.faults.append(f"{kill}: traceback, {outcome.last_line}")

    def finish(self, fresh: bool) -> None:
        """Resume the training, unless it is finished already, and compare it with the straight one."""
        if not self._is_finished():
            outcome = self._run_session(fresh)
            if outcome.code:
                self.faults.append(f"resumed: exit code {outcome.code}, {outcome.last_line}")
            self.faults += self._differences()

    def _run_session(self, fresh: bool, kill: Kill | None = None) -> Outcome:
        if (self.run / "checkpoints/last.ckpt").exists():
            options = ["fit", "--ckpt_path", "runs/soak/version_0"]
        else:  # killed before its first checkpoint: it begins again, in the same folder
            shutil.rmtree(self.folder / "runs", ignore_errors=True)
            options = [*self.command]
        environment = {"TMPDIR": str(self.temporary)} | (kill.environment(self.straight.counts) if kill else {})
        outcome = run(options, self.folder, environment, kill, self.straight.seconds, fresh)
        if outcome.orphans:
            self.faults.append(f"{kill or 'resumed'}: processes outlive the first one")
        return outcome

    def _check_checkpoints(self, kill: Kill) -> None:
        for path in self.run.glob("checkpoints/*.ckpt"):
            try:
                read_checkpoint(path)
            except Exception as error:  # whatever a damaged file makes of its reader
                self.faults.append(f"{kill}: {path.name} can't be read, {error}")

    def _is_finished(self) -> bool:
        return (self.run / "test_metrics.json").exists() and not self._differences()

    def _differences(self) -> list[str]:
        others = [path for path in self.folder.iterdir() if path.name != "runs"] + [*self.temporary.iterdir()]
        return differences(self.straight.run, self.run) + [f"{path.name} is left over" for path in others]
