"""Checks of the types of values in a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kindling.utils.text import shorten


def check_types(path: Path, part: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Check the types of the values of a dictionary in a checkpoint; None and absent keys are allowed.

    Raises:
        ValueError: If a value has another type.
    """
    for name, kind in types.items():
        if not has_type(part.get(name), kind):
            raise ValueError(f"{path} is not a Kindling checkpoint, or was modified: its {name} is {quote(part[name])}")


def has_type(value: Any, kind: type) -> bool:
    """Return whether a value is None or has a type: an int must not be negative, and a tuple counts as a list."""
    if kind is int:
        return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return value is None or isinstance(value, (list, tuple) if kind is list else kind)


def quote(value: Any) -> str:
    """Return a value as a message shows it."""
    return shorten(repr(value), 60)


def as_dict(value: Any) -> dict[str, Any]:
    """Return a dictionary unchanged, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}
