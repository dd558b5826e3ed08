"""Run commands in processes of their own, several at a time, which share the imports of one server process."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from kindling.utils.cores import JOBS
from kindling.utils.stop_signals import Terminated
from kindling.utils.text import program_name, set_program_name

# What most commands import, some of it only when they need it.
PRELOADED = ("kindling.cli.lightning_cli", "matplotlib.figure", "pandas")


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        command: Name and options of the command.
        log: File for its output; None for the output of this process.
        function: What runs it and returns its exit code; None for `kindling.cli.main`.
    """

    command: Sequence[str]
    log: Path | None = None
    function: Callable[[list[str]], int] | None = None


def run_jobs(jobs: Sequence[Job], at_once: int) -> Generator[tuple[int, int]]:
    """Run commands and yield the index and the exit code of each as it ends; negative codes are signals.

    With several jobs at once, each uses its share of the cores. On Ctrl-C or SIGTERM, the running commands stop as they
    do on their own, and this function waits for them.

    Args:
        jobs: The commands, started in this order.
        at_once: Maximum number of commands that run at the same time.
    """
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload([*PRELOADED])
    waiting, running = deque(enumerate(jobs)), dict[int, tuple[int, Any]]()
    with _forwarded_sigterm(running):
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, job = waiting.popleft()
                    process = context.Process(target=_run, args=(job, program_name(), at_once))
                    process.start()
                    running[process.sentinel] = number, process
                for sentinel in wait(list(running)):
                    number, process = running[sentinel]  # type: ignore[index]
                    process.join()
                    del running[sentinel]  # type: ignore[arg-type]
                    yield number, process.exitcode
        finally:
            for _, process in running.values():
                process.join()


def _run(job: Job, program: str, at_once: int) -> None:
    """Run one of several commands in a new process, and exit with its code."""
    from kindling.cli import main

    threading.Thread(target=_stop_with_parent, daemon=True).start()
    if job.log:
        sys.stdout.flush()
        with job.log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    if at_once > 1:
        from kindling.training.threads import share_cores

        os.environ[JOBS] = str(at_once)
        share_cores()
    set_program_name(program)
    sys.argv = [sys.argv[0], *job.command]  # Lightning repeats it to start further processes
    sys.exit((job.function or main)(list(job.command)))


def _stop_with_parent() -> None:
    """Stop this command as SIGTERM does, which saves a checkpoint, if the process that started it has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _forwarded_sigterm(running: dict[int, tuple[int, Any]]) -> Iterator[None]:
    """Pass SIGTERM on to the running processes, which Ctrl-C reaches anyway, then raise `Terminated`."""

    def forward(number: int, frame: FrameType | None) -> None:
        for _, process in running.values():
            process.terminate()
        raise Terminated(number)

    handler = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
