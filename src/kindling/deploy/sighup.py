"""SIGHUP, which loads new versions, or ends the server when its terminal is closed; Windows does not have it."""

import os
import signal


def has_terminal() -> bool:
    """Return whether this process ends when a terminal is closed: not after `nohup`, or without a terminal."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def record_sighups() -> list[int]:
    """Return a list to which each SIGHUP is added from now on, which would end a process that is starting."""
    recorded: list[int] = []
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: recorded.append(number))
    return recorded
