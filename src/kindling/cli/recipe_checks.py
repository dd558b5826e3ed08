"""Check the structure of recipes, with clearer messages than the parser's."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kindling.utils.errors import UsageError
from kindling.utils.text import shorten

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
KEY_SYNONYMS = {"args": "init_args", "kwargs": "init_args", "arguments": "init_args", "class": "class_path"}
IS_CLASS = {"class_path", "init_args"}
CLASSES = ("model", "data", "averaging")  # options that take a class
CLASS_OPTIONS = re.compile(
    rf"{'|'.join(CLASSES)}|trainer\.(callbacks|logger|strategy|profiler)(\[\d+\])?"
    r"|model\.(init_args\.)?(optimizer|lr_scheduler)"
)
OPTION_GROUPS = ("trainer", "checkpoint", "early_stopping")  # groups of options
NO_SPACE = re.compile(r"\s*(?:- )?([A-Za-z_]\w+):(?!//)(\S.*)")  # matches `max_epochs:10` but not a URL


def check_layout(recipe: dict[str, Any], source: Path) -> None:
    """Check that classes in a recipe have only the keys in `CLASS_KEYS`, and that groups are mappings.

    Raises:
        UsageError: If not; it names the key and the fix.
    """
    for key in CLASS_KEYS:
        if key in recipe:
            raise UsageError(f"{source}: {key} belongs to a class: indent it below model, data or another option")
    for place, value in _nested_values(recipe):
        name = place.rpartition(".")[2]
        is_group = place in (*CLASSES, *OPTION_GROUPS) or name in ("init_args", "dict_kwargs")
        if is_group and isinstance(value, str) and (hint := add_space(value.split("\n")[0])):
            raise UsageError(f"{source}: {place}: {hint}")
        if isinstance(value, dict) and (CLASS_OPTIONS.fullmatch(place) or not IS_CLASS.isdisjoint(value)):
            _check_class_keys(value, place, source)


def add_space(line: str) -> str:
    """Return a hint if a line of YAML has no space after its colon; otherwise an empty string."""
    found = NO_SPACE.fullmatch(line.rstrip())
    if not found:
        return ""
    value = found[2].split(" ")[0] if NO_SPACE.search(found[2]) else found[2]  # YAML joined several lines
    return f"write {found[1]}: {shorten(value, 60)}, with a space after the colon"


def find_missing_space(text: str, line: int) -> str:
    """Return a hint about the last line, up to `line`, with no space after its colon; empty if there is none."""
    lines = list(enumerate(text.splitlines()[:line], 1))
    return next((f"line {number}: {hint}" for number, text in reversed(lines) if (hint := add_space(text))), "")


def _nested_values(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each entry of a recipe, depth first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        path = f"{place}[{key}]" if isinstance(value, list) else f"{place}.{key}".lstrip(".")
        yield path, item
        yield from _nested_values(item, path)


def _check_class_keys(value: dict[str, Any], place: str, source: Path) -> None:
    has_class = not IS_CLASS.isdisjoint(value)  # otherwise the keys may be arguments
    for key in (str(key) for key in value if key not in CLASS_KEYS):
        near = difflib.get_close_matches(key.lower(), CLASS_KEYS, n=1, cutoff=0.8)
        if meant := (KEY_SYNONYMS.get(key) if has_class else None) or "".join(near):
            raise UsageError(f"{source}: there is no {place}.{key}: did you mean {place}.{meant}?")
        if has_class:
            raise UsageError(f"{source}: {place}.{key}: options of a class go below init_args: {place}.init_args.{key}")
