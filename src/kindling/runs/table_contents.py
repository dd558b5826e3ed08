"""Validation of what a checkpoint has learned about a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kindling.runs.stored_types import check_types, quote
from kindling.utils.text import join_names

TYPES: dict[str, type] = {"target": dict, "columns": list, "left_out": dict, "digest": str}
# State of one column; older checkpoints lack some of these.
COLUMN_TYPES: dict[str, type] = {
    **{"name": str, "kind": str, "values": list, "classes": list, "known": list, "encodings": list, "prior": list},
    **{"center": float, "scale": float, "median": float, "limit": float, "smoothing": float, "range": list},
    **{"decimal": str, "units": list, "factors": dict, "missing": bool, "missing_values": list, "day_first": bool},
}
ITEM_TYPES: dict[str, type | tuple[type, ...]] = {
    **{"units": str, "missing_values": str, "values": str, "known": str, "classes": int},
    **{"range": float, "prior": float, "encodings": (list, tuple)},
}
REQUIRED_BY_KIND = {
    "number": ("center", "scale", "median", "decimal"),
    "date": ("center", "scale", "median", "day_first"),
    "category": ("values",),
}
MAY_BE_NONE = ("day_first",)
TARGET_ENCODING = ("known", "classes", "prior", "smoothing", "encodings")


def is_table(data_module: str, learned: Mapping[str, Any]) -> bool:
    """Return whether the state of a data module with this class name is that of a table."""
    return data_module == "TableDataModule" or "columns" in learned or "left_out" in learned


def check_table(path: Path, learned: Mapping[str, Any]) -> None:
    """Check that all that a table needs has been learned, with values of the right types.

    Raises:
        ValueError: If not.
    """
    check_types(path, learned, TYPES)
    target = learned.get("target")
    for name in ("classes" if target is None else "target", "columns", "left_out"):
        if learned.get(name) is None:
            raise ValueError(f"{path} was modified: its table has no {name}")
    if not learned["columns"]:
        raise ValueError(f"{path} was modified: its table has no columns")
    for column in learned["columns"]:
        _check_column(path, column, ("name", "kind", "missing"))
    if target is not None:  # numbers, stored like a column
        _check_column(path, target, ("name", "kind"))
        if target["kind"] != "number":
            raise ValueError(f"{path} was modified: its target is of the kind {quote(target['kind'])}")


def _check_column(path: Path, column: Any, required: tuple[str, ...]) -> None:
    if not isinstance(column, dict):
        raise ValueError(f"{path} was modified: one of its columns is {quote(column)}")
    check_types(path, column, COLUMN_TYPES)
    name, kind = column.get("name"), column.get("kind")
    if kind not in (None, *REQUIRED_BY_KIND):
        raise ValueError(f"{path} was modified: column {name} is of the kind {quote(kind)}")
    required += REQUIRED_BY_KIND.get(kind or "", ())
    required += ("classes",) if "known" in column else ()
    required += TARGET_ENCODING if "encodings" in column else ()
    empty = [key for key, value in column.items() if value is None and key not in MAY_BE_NONE]
    if lacking := list(dict.fromkeys([*(key for key in required if key not in column), *empty])):
        raise ValueError(f"{path} was modified: column {name} lacks {join_names(lacking)}")
    for key, item_type in ITEM_TYPES.items():
        if not all(isinstance(item, item_type) for item in column.get(key, ())):
            raise ValueError(f"{path} was modified: column {name} has {key} {quote(column[key])}")
    if len(column.get("range", (0, 0))) != 2:
        raise ValueError(f"{path} was modified: column {name} has range {quote(column['range'])}")
    if "encodings" in column and not _is_rectangular(column):
        raise ValueError(f"{path} was modified: column {name} has encodings that do not match its categories")


def _is_rectangular(column: Mapping[str, Any]) -> bool:
    """Return whether a target encoding has a number for each category and class."""
    rows = [column["prior"], *column["encodings"]]
    sizes_match = len(column["encodings"]) == len(column["known"]) and {*map(len, rows)} == {len(column["classes"])}
    return sizes_match and all(isinstance(number, float) for row in rows for number in row)
