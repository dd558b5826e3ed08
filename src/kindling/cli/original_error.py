"""The error of a model or data module, in place of the one in which the parser wraps it."""

from collections.abc import Iterator
from contextlib import contextmanager

from kindling.utils.errors import creation_error


class OriginalError:
    """The error of a model or data module, which the parser would wrap in its own."""

    def __init__(self) -> None:
        self._error: Exception | None = None

    @contextmanager
    def keep(self, created: str = "") -> Iterator[None]:
        """Keep an error that is raised within the block; for one in the `__init__` of a class, name the class."""
        try:
            yield
        except Exception as error:
            self._error = error
            if created and isinstance(error, TypeError | AttributeError | RuntimeError | LookupError | ArithmeticError):
                self._error = creation_error(created, error)
                raise self._error from error
            raise

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise the kept error in place of the one that the parser raises within the block."""
        try:
            yield
        except Exception as error:
            if self._error is None or error is self._error:
                raise
            raise self._error from self._error.__cause__
