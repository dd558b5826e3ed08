"""Errors reported in one line, and an option parser that raises them.

Errors of argparse and of torch's data loader have no type or attribute that tells them apart, so their text is matched.
If it changes, tests/cli/test_entry_point.py and tests/data/test_workers.py fail.
"""

import argparse
import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from kindling.utils.text import shorten, suggest

logger = logging.getLogger(__name__)

LIBRARIES = (os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__), "<")


class UsageError(Exception):
    """An invalid command line or configuration; the exit code is 2."""


class UsageErrorParser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` instead of exiting, and takes no abbreviated options."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.allow_abbrev = False

    def check_typos(self, others: Iterable[str]) -> None:
        """Raise UsageError if an unknown option closely resembles an option of this parser."""
        for option in (other.partition("=")[0] for other in others if other.startswith("--") and "." not in other):
            if near := difflib.get_close_matches(option, self._option_string_actions, n=1, cutoff=0.8):
                raise UsageError(f"there is no option {option}: did you mean {near[0]}?")

    def error(self, message: str) -> NoReturn:  # noqa: D102
        message = message.replace("the following arguments are required:", "missing:")
        options = [option.lstrip("-") for option in self._option_string_actions]
        raise UsageError(describe_misuse(message, options) or message)


def describe_misuse(message: str, options: Iterable[str] = (), typed: Sequence[str] = ()) -> str:
    """Return one line about an option that is unknown, lacks its value or takes none; empty for other messages.

    See https://github.com/python/cpython/blob/main/Lib/argparse.py.

    Args:
        message: Error message of argparse.
        options: Names of all options, without the dashes.
        typed: Command line, to find out which option of a class lacks its value.
    """
    if found := re.search(r"argument (?:-\w/)?--([\w.+]+): expected .*argument", message):
        return f"{_option_without_value(f'--{found[1]}', typed)} needs a value"
    if found := re.search(r"argument (?:-\w/)?--([\w.+]+): ignored explicit argument (.*)", message, re.DOTALL):
        return f"--{found[1]} takes no value, got {shorten(found[2], 60)}"
    if found := re.search(r"unrecognized arguments: (?!--[\w.+])(.*)", message, re.DOTALL):
        return f"unexpected argument {shorten(repr(found[1]), 60)}: write options as --NAME VALUE"
    if found := re.search(r"unrecognized arguments: --([\w.+]+)", message):
        return unknown_option(found[1], options)
    return ""


def unknown_option(name: str, options: Iterable[str]) -> str:
    """Return one line about an option that does not exist, with the most similar one."""
    options, group = list(options), name.split(".")[0]
    near = suggest(name, options) or ("" if group in options else suggest(group, options))
    return f"there is no option {name}{near}"


def _option_without_value(option: str, typed: Sequence[str]) -> str:
    """Return the full option that lacks a value; argparse reports --model for --model.dropout."""
    for name, value in zip(typed, [*typed[1:], "--"], strict=False):
        if re.fullmatch(rf"{re.escape(option)}(\.[\w.+]+)?", name) and value.startswith("--"):
            return name
    return option


def users_line(error: BaseException) -> str:
    """Return the innermost line of user code in a traceback, such as `model.py, line 8`; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [one for one in frames if not one.filename.startswith(LIBRARIES) and "site-packages" not in one.filename]
    return f"{os.path.basename(users[-1].filename)}, line {users[-1].lineno}" if users else ""


def creation_error(name: str, error: Exception) -> ValueError:
    """Turn an error that the `__init__` of a class raised into one clear line."""
    reason, place = f"{type(error).__name__}: {error}", users_line(error)
    if "before Module.__init__() call" in reason or "super().__init__() needs to be called" in reason:
        reason = "call super().__init__(**kwargs) first in its __init__"
    elif found := re.search(r"Task\.__init__\(\) missing .* arguments?: (.*)", reason):
        reason = f"super().__init__ lacks {found[1]}: take **kwargs in its __init__ and pass them on"
    return ValueError(f"{name} can't be created: {reason}" + f" ({place})" * bool(place))


def unwrap_worker_error(message: str) -> str:
    """Return the original message of an error in a data-loading process, which torch wraps in a traceback.

    See `ExceptionWrapper` in https://github.com/pytorch/pytorch/blob/main/torch/_utils.py.
    """
    if not re.match(r"Caught \w+ in .+\.\nOriginal Traceback", message):
        return message
    return re.split(r"^[\w.]+(?:Error|Exception): ", message, flags=re.MULTILINE)[-1].strip()


def describe_killed_worker(error: BaseException) -> str:
    """Return one line about a data-loading process that was killed; empty for any other error.

    Torch's signal handler raises the error wherever the main process is, and code there can fail because of it: in
    `torch.save`, the archive that is closed too early. See
    https://github.com/pytorch/pytorch/blob/main/torch/csrc/DataLoader.cpp.
    """
    earlier: BaseException | None = error
    seen: set[int] = set()  # an exception that is raised again can be its own context
    while earlier is not None and id(earlier) not in seen:
        seen.add(id(earlier))
        if isinstance(earlier, RuntimeError) and str(earlier).startswith("DataLoader worker (pid"):
            return "a data-loading process was killed, often for lack of memory: try a smaller --data.num_workers"
        earlier = earlier.__cause__ or earlier.__context__
    return ""


@contextmanager
def logging_errors(task: str) -> Iterator[None]:
    """Log an error of a block in one line instead of raising it, where it would replace an earlier error or a signal.

    An OSError is not logged if the earlier error is one: most likely, it has the same reason, such as a full disk.

    Args:
        task: What the block does, such as "plotting".
    """
    earlier = sys.exception()
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) and isinstance(earlier, OSError)):
            logger.warning(f"{task} failed: {shorten(f'{type(error).__name__}: {error}', 180)}")
