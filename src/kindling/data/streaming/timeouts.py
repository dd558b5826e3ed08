"""Reads that end, also if a disk or a server no longer answers."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

ReportProgress = Callable[[], None]  # called at each progress
Result = TypeVar("Result")


def within(seconds: float, work: Callable[[ReportProgress], Result]) -> Result:
    """Return the result of a function that runs in a thread, which is left alone if it makes no progress.

    Args:
        seconds: Time without progress after which to give up.
        work: Takes a function to call at each progress.

    Raises:
        TimeoutError: If there is neither a result nor progress for that time.
    """
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    latest = [time.monotonic()]

    def report_progress() -> None:
        latest[0] = time.monotonic()

    def run() -> None:
        try:
            results.put((work(report_progress), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while (left := latest[0] + seconds - time.monotonic()) > 0:
        with suppress(queue.Empty):
            result, error = results.get(timeout=left)
            if error:
                raise error
            return result  # type: ignore[no-any-return]
    raise TimeoutError(f"no answer for {seconds:g} seconds")
