"""The time of the last output, from which the seconds of silence before a progress bar count.

Apart from `console`, as it is needed before slow imports.
"""

import time

_last = [time.monotonic()]


def note_output() -> None:
    """Record that the user sees something new, or has just started a command."""
    _last[0] = time.monotonic()


def silence() -> float:
    """Return the seconds since the last output."""
    return time.monotonic() - _last[0]
