"""Runs `kindling` in a process that may be killed, for `soak.py`."""

import atexit
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil

from kindling.cli.entry_point import program
from soak_events import arm

# A process counts as hanging after TIMES times the duration of the reference run plus TIMEOUT seconds.
TIMEOUT, TIMES = 60.0, 20.0
PATIENCE = 15.0  # additional seconds for the other processes of a run to end after the first


class Kill(NamedTuple):
    """When and how a process is killed.

    Attributes:
        event: An event of `soak_events`, or `time`.
        at: The moment, as a fraction of all such events of the reference run, or of its duration.
        signals: KILL, TERM, INT, or TERM+KILL for one after the other.
        delay: Seconds between the two, or from the event to the KILL.
        rank: Rank of the process in a distributed run; None for all processes.
    """

    event: str
    at: float
    signals: str
    delay: float = 0.0
    rank: int | None = 0

    def environment(self, counts: Mapping[str, int]) -> dict[str, str]:
        """Return the environment variables that make a process signal itself; none for a kill by time."""
        if self.event == "time":
            return {}
        number = int(self.at * counts[self.event])
        return {"SOAK_KILL": f"{self.event} {number} {self.signals} {self.delay}", "SOAK_RANK": str(self.rank)}

    def schedule(self, seconds: float) -> list[tuple[float, str]]:
        """Return the signals, and when to send them to a process that takes `seconds`."""
        names = self.signals.split("+") if self.event == "time" else []
        return [(self.at * seconds + number * self.delay, name) for number, name in enumerate(names)]

    def __str__(self) -> str:
        where = f" of rank {self.rank}" if self.rank else "" if self.rank == 0 else " of all"
        return f"{self.signals}{where} at {self.at:.0%} of {self.event}"


class Outcome(NamedTuple):
    """How a process ended.

    Attributes:
        code: Exit code.
        output: Output on stdout and stderr.
        seconds: Duration.
        hit: Whether the kill hit the process: one that ends with code 0 was not hit by a KILL.
        orphans: Whether child processes outlived it.
        hangs: Whether it was ended because it took too long.
    """

    code: int
    output: str
    seconds: float
    hit: bool
    orphans: bool
    hangs: bool = False

    @property
    def last_line(self) -> str:
        """The last line of the output."""
        return self.output.rstrip().rpartition("\n")[2]


def run(
    options: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    kill: Kill | None = None,
    seconds: float = 0.0,
    fresh: bool = False,
) -> Outcome:
    """Run `kindling` in a new process.

    Args:
        options: Options of the command line.
        folder: The working directory; the output of each process goes to a file next to it.
        environment: Environment variables in addition to those of this process.
        kill: When and how to kill it, if at all.
        seconds: Expected duration without a kill; 0 if unknown.
        fresh: Whether to start Python instead of forking this process, which has imported everything.
    """
    number = len([*folder.parent.glob(f"{folder.name}.*.log")])
    log, mark = folder.with_suffix(f".{number}.log"), folder.with_suffix(".hit")
    log.touch()  # a process may be killed before it opens it
    mark.unlink(missing_ok=True)
    sys.stdout.flush()
    start = time.monotonic()
    signals, rank = (kill.schedule(seconds), kill.rank) if kill else ([], 0)
    process = os.fork()
    if process == 0:
        _become(options, folder, {**environment, "SOAK_HIT": str(mark)}, log, fresh)
    limit = TIMEOUT + TIMES * (seconds or TIMEOUT)
    try:
        status, is_sent = _wait(process, start, limit, signals, rank)
        passed = time.monotonic() - start
        orphans = not _is_empty(process, PATIENCE + seconds)
    finally:
        if not _is_empty(process, 0):
            os.killpg(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    hit = (is_sent or mark.exists()) and (code != 0 or kill is None or kill.signals != "KILL")
    mark.unlink(missing_ok=True)
    return Outcome(code, log.read_text("utf-8", "replace"), passed, hit, orphans, hangs=passed > limit)


def _wait(
    process: int, start: float, limit: float, signals: list[tuple[float, str]], rank: int | None
) -> tuple[int, bool]:
    is_sent = False
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        passed = time.monotonic() - start
        if done:
            return status, is_sent
        if passed > limit:
            os.killpg(process, signal.SIGKILL)
        while signals and signals[0][0] <= passed:
            is_sent |= _send(process, signal.Signals[f"SIG{signals.pop(0)[1]}"], rank)
        time.sleep(0.005)


def _send(process: int, number: signal.Signals, rank: int | None) -> bool:
    """Send a signal to a process of a run, and return whether that process existed."""
    try:
        if rank is None or number == signal.SIGINT:  # Ctrl-C in a terminal reaches all processes
            os.killpg(process, number)
        elif rank == 0:
            os.kill(process, number)
        else:
            children = psutil.Process(process).children()
            others = [each for each in children if each.environ().get("LOCAL_RANK") == str(rank)]
            for other in others:
                other.send_signal(number)
            return bool(others)
    except (ProcessLookupError, psutil.Error):
        return False  # it has ended in the meantime
    return True


def _is_empty(group: int, patience: float) -> bool:
    """Return whether all processes of a group end within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        living = [each for each in psutil.process_iter(["status"]) if _is_of(each, group)]
        if not living or time.monotonic() >= end:
            return not living
        time.sleep(0.05)


def _is_of(process: psutil.Process, group: int) -> bool:
    try:
        return process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False


def _become(options: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path, fresh: bool) -> NoReturn:
    """Turn this forked process into `kindling` as if a shell had started it."""
    code = 1
    try:
        os.setpgid(0, 0)  # not a new session, which Linux may schedule with another priority
        os.chdir(folder)
        written = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(written, 1)
        os.dup2(written, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment)
        os.environ["GIT_DIR"] = os.devnull  # run.json contains the commit, which may change in the meantime
        module = "soak_events" if "SOAK_KILL" in environment or "SOAK_COUNTS" in environment else "kindling"
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", module, *options])
        tempfile.tempdir = None  # determined again: $TMPDIR may differ
        if module == "soak_events":
            arm()
        sys.argv = ["kindling", *options]
        program()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()  # as at the end of a process that was not forked
    sys.stdout.flush()
    os._exit(code)
