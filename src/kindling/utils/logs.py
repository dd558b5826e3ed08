"""Where log messages go: to the terminal, for the person at it, unless a program handles them by itself."""

import logging


class ConsoleHandler(logging.Handler):
    """Print messages as they are, once however many processes train."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        from kindling.utils.console import say  # rich takes a moment, and most commands log nothing

        say(self.format(record))


def set_up_logging() -> None:
    """Give the logger `kindling` a handler, as Lightning does with its own, unless it has one."""
    logger = logging.getLogger("kindling")
    if not logger.handlers:
        logger.addHandler(ConsoleHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
