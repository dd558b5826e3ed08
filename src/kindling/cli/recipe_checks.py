"""Check the structure of recipes, with clearer messages than the parser's."""

import difflib
import re
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


def check_recipe(recipe: dict[Any, Any], source: object) -> None:
    """Check the names of options in a recipe, and that classes in it have only the keys in `CLASS_KEYS`.

    Raises:
        UsageError: If one is invalid; it names the key and the fix.
    """
    for key in CLASS_KEYS:
        if key in recipe:
            raise UsageError(f"{source}: {key} belongs to a class: indent it below model, data or another option")
    check_value(recipe, "", f"{source}: ")


def check_value(value: Any, place: str, source: str = "") -> None:
    """Check a value in a recipe, and all values in it.

    Args:
        value: The value.
        place: Name of the option and of the keys within it; empty for a whole recipe.
        source: Start of messages.
    """
    owner, _, name = place.rpartition(".")
    is_group = place in (*CLASSES, *OPTION_GROUPS) or name in ("init_args", "dict_kwargs")
    if is_group and isinstance(value, str) and (hint := add_space(value.split("\n")[0])):
        raise UsageError(f"{source}{place}: {hint}")
    if name == "class_path" and not (isinstance(value, str) and value.strip()):
        raise UsageError(f"{source}{owner}: class_path must be the name of a class, got {show(value)}")
    if name == "init_args" and not isinstance(value, dict):
        raise UsageError(f"{source}{owner}: init_args must contain options such as NAME: VALUE, got {show(value)}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            check_value(item, f"{place}[{number}]", source)
    if isinstance(value, dict):
        is_class = not IS_CLASS.isdisjoint(value)
        if is_class or CLASS_OPTIONS.fullmatch(place):
            _check_class_keys(value, place, source, is_class)
        if not is_class and ("." not in place or name == "init_args"):
            _check_names(value, place, source)
        for key, item in value.items():
            check_value(item, f"{place}.{key}".lstrip("."), source)


def _check_class_keys(value: dict[Any, Any], place: str, source: str, is_class: bool) -> None:
    """Check the keys of a class; if there is no class, they may be arguments, and only typos are found."""
    for key in (str(key) for key in value if key not in CLASS_KEYS):
        near = difflib.get_close_matches(key.lower(), CLASS_KEYS, n=1, cutoff=0.8)
        if meant := (KEY_SYNONYMS.get(key) if is_class else None) or "".join(near):
            raise UsageError(f"{source}there is no {place}.{key}: did you mean {place}.{meant}?")
        if is_class:
            raise UsageError(f"{source}{place}.{key}: options of a class go below init_args: {place}.init_args.{key}")
    if place.endswith("]") and "init_args" in value and "class_path" not in value:
        raise UsageError(f"{source}{place}: class_path is missing next to init_args")


def _check_names(options: dict[Any, Any], group: str, source: str) -> None:
    for key in options:
        if not re.fullmatch(r"\w[\w.+]*", key if isinstance(key, str) else ""):
            raise UsageError(f"{source}there is no option {show(key)}{f' in {group}' if group else ''}")


def show(value: Any) -> str:
    """Return a value of a recipe for a message."""
    return "null" if value is None else shorten(repr(value), 60)


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
