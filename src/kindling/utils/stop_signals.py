"""The signals that stop a command: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends before a time limit."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# By precedence, if processes of a run receive different ones: a job that is canceled must not be requeued.
STOP_SIGNALS = (signal.SIGINT, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()), signal.SIGTERM)
TERMINATED = 143  # exit code: 128 + SIGTERM, as shells report it


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 stops the command.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def interruption(number: int) -> KeyboardInterrupt:
    """Return the exception that a signal raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def find_interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the exception that a signal raised, also if Lightning turned it into SystemExit; None if there is none."""
    while isinstance(error, SystemExit):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, KeyboardInterrupt) else None


@contextmanager
def interrupting() -> Iterator[None]:
    """Treat SIGTERM and SIGUSR1 like Ctrl-C, so that a terminated command removes partial files."""
    if threading.current_thread() is not threading.main_thread():  # the only one that may set handlers
        yield
        return
    handlers = {signal.SIGINT: signal.getsignal(signal.SIGINT)}  # Lightning ignores it after a first one
    handlers |= {number: signal.signal(number, interrupt) for number in STOP_SIGNALS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM or SIGUSR1: stop the command; a second one ends the process at once."""
    end_at_once_on_signals()
    raise Terminated(number)


def end_at_once_on_signals() -> None:
    """Let further signals end this process at once."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
