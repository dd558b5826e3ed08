"""Logging of the package `kindling` to the console, unless a program sets up its own handlers."""

import logging


class ConsoleHandler(logging.Handler):
    """Print messages without a prefix, on rank 0 only."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102 - imported before any dependency is known to exist
        from kindling.utils.console import say  # importing rich takes time

        say(self.format(record))


def set_up_logging() -> None:
    """Add a console handler to the logger `kindling`, unless it has a handler."""
    logger = logging.getLogger("kindling")
    if not logger.handlers:
        logger.addHandler(ConsoleHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
