"""Logging of a command to stderr, so that its output can be redirected to a file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from kindling.utils.console import say


class ConsoleHandler(logging.Handler):
    """Print messages without a prefix, on rank 0 only."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        say(self.format(record), stderr=True)


@contextmanager
def console_logging() -> Iterator[None]:
    """Print messages of the package `kindling` within the block, unless the program has set up its own handlers."""
    logger = logging.getLogger("kindling")
    if logger.handlers:
        yield
        return
    handler, level, propagate = ConsoleHandler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
