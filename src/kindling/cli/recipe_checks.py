"""Mistakes in the layout of a recipe that the parser would report without the key and the way out."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kindling.utils.errors import UsageError
from kindling.utils.text import shorten

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
ALSO_MEANT = {"args": "init_args", "kwargs": "init_args", "arguments": "init_args", "class": "class_path"}
IS_CLASS = {"class_path", "init_args"}
CLASSES = ("model", "data", "averaging")  # options that take a class
CLASS_OPTIONS = re.compile(
    rf"{'|'.join(CLASSES)}|trainer\.(callbacks|logger|strategy|profiler)(\[\d+\])?"
    r"|model\.(init_args\.)?(optimizer|lr_scheduler)"
)
GROUPS = ("trainer", "checkpoint", "early_stopping")  # options that hold others
NO_SPACE = re.compile(r"\s*(?:- )?([A-Za-z_]\w+):(?!//)(\S.*)")  # of `max_epochs:10`; no URL


def check_layout(recipe: dict[str, Any], source: Path) -> None:
    """Check that classes of a recipe have no keys but `class_path`, `init_args` and `dict_kwargs`, and groups any keys.

    Raises:
        UsageError: If not, with the key and how to write it.
    """
    for key in CLASS_KEYS:
        if key in recipe:
            raise UsageError(f"{source}: {key} belongs to a class: indent it below model, data or another option")
    for place, value in _parts(recipe):
        name = place.rpartition(".")[2]
        is_group = place in (*CLASSES, *GROUPS) or name in ("init_args", "dict_kwargs")
        if is_group and isinstance(value, str) and (hint := add_space(value.split("\n")[0])):
            raise UsageError(f"{source}: {place}: {hint}")
        if isinstance(value, dict) and (CLASS_OPTIONS.fullmatch(place) or not IS_CLASS.isdisjoint(value)):
            _check_class_keys(value, place, source)


def add_space(line: str) -> str:
    """Return how to write a line of YAML whose colon has no space after it; an empty string for any other line."""
    found = NO_SPACE.fullmatch(line.rstrip())
    if not found:
        return ""
    value = found[2].split(" ")[0] if NO_SPACE.search(found[2]) else found[2]  # of several lines, joined by YAML
    return f"write {found[1]}: {shorten(value, 60)}, with a space after the colon"


def find_missing_space(text: str, line: int) -> str:
    """Return the last line up to a given one whose colon has no space after it, and how to write it."""
    lines = list(enumerate(text.splitlines()[:line], 1))
    return next((f"line {number}: {hint}" for number, one in reversed(lines) if (hint := add_space(one))), "")


def _parts(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values of a recipe with the options that they belong to."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        where = f"{place}[{key}]" if isinstance(value, list) else f"{place}.{key}".lstrip(".")
        yield where, part
        yield from _parts(part, where)


def _check_class_keys(value: dict[str, Any], place: str, source: Path) -> None:
    has_class = not IS_CLASS.isdisjoint(value)  # without them, the arguments themselves may stand here
    for key in (str(key) for key in value if key not in CLASS_KEYS):
        near = difflib.get_close_matches(key.lower(), CLASS_KEYS, n=1, cutoff=0.8)
        if meant := (ALSO_MEANT.get(key) if has_class else None) or "".join(near):
            raise UsageError(f"{source}: there is no {place}.{key}: did you mean {place}.{meant}?")
        if has_class:
            raise UsageError(f"{source}: {place}.{key}: options of a class go below init_args: {place}.init_args.{key}")
