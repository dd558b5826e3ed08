"""Errors that must not replace an earlier one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kindling.utils.errors import logging_errors


def write() -> None:
    """Fail with an OSError that has another one as its context."""
    Path("file").touch()
    Path("file/a/b").mkdir(parents=True)


@pytest.mark.parametrize(
    ("earlier", "lines"), [(None, 1), (RuntimeError("boom"), 1), (OSError("the disk is full"), 0)], ids=str
)
def test_an_error_is_logged_unless_an_earlier_one_says_the_same(
    caplog: pytest.LogCaptureFixture, earlier: Exception | None, lines: int
) -> None:
    def save() -> None:
        with logging_errors("saving"):
            write()

    if earlier is None:
        save()
    else:
        handle(earlier, save)
    assert [record.getMessage()[:15] for record in caplog.records] == ["saving failed: "] * lines


def handle(error: Exception, then: Callable[[], None]) -> None:
    try:
        raise error
    except Exception:
        then()
