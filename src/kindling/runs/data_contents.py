"""Validation of what a data module has learned, as a checkpoint stores it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kindling.runs.stored_types import check_types, quote
from kindling.utils.text import join_names

TYPES: dict[str, type] = {
    **{"classes": list, "target": dict, "columns": list, "left_out": dict, "digest": str, "members": int, "keys": list},
    **{"kind": str, "input_shape": list},
}
IMAGE_TYPES: dict[str, type] = {"image_size": int, "levels": list, "task": str, "separator": str, "split": str}
# State of one column.
COLUMN_TYPES: dict[str, type] = {
    **{"name": str, "kind": str, "values": list, "classes": list, "known": list, "encodings": list, "prior": list},
    **{"center": float, "scale": float, "median": float, "limit": float, "smoothing": float, "range": list},
    **{"decimal": str, "units": list, "factors": dict, "missing": bool, "missing_values": list, "day_first": bool},
    **{"member": int},
}
ITEM_TYPES: dict[str, type | tuple[type, ...]] = {
    **{"units": str, "missing_values": str, "values": str, "known": str, "classes": int},
    **{"range": float, "prior": float, "encodings": (list, tuple)},
}
SCALED = ("center", "scale", "median", "limit", "range", "missing_values")
REQUIRED_BY_KIND = {
    "number": (*SCALED, "decimal", "units"),
    "date": (*SCALED, "day_first"),
    "category": ("values", "missing_values"),
}
MAY_BE_NONE = ("day_first",)
TARGET_ENCODING = ("known", "classes", "prior", "smoothing", "encodings")


def check_data(path: Path, data_module: str, learned: Mapping[str, Any]) -> None:
    """Check what a data module has learned from its training samples: that it is complete, with the right types.

    Args:
        path: The checkpoint.
        data_module: Name of the class of the data module.
        learned: Its state in the checkpoint.

    Raises:
        ValueError: If something is missing or has another type.
    """
    check_types(path, learned, TYPES)
    if not all(isinstance(name, str) for name in learned.get("classes") or ()):
        raise ValueError(f"{path} was modified: its classes are {quote(learned['classes'])}")
    target = learned.get("target")
    if target is not None:  # numbers, stored like a column
        _check_column(path, target, ("name", "kind"))
        if target["kind"] != "number":
            raise ValueError(f"{path} was modified: its target is of the kind {quote(target['kind'])}")
    if data_module == "StreamingDataModule" and learned:
        _check_present(path, learned, ("digest", "kind"), "data set")
    if data_module == "ImageFolderDataModule" or learned.get("kind") == "images":
        _check_images(path, learned)
    if data_module == "TableDataModule" or "columns" in learned or "left_out" in learned:
        _check_present(path, learned, ("classes" if target is None else "target", "columns", "left_out"), "table")
        for column in learned["columns"]:
            _check_column(path, column, ("name", "kind", "missing"))


def _check_present(path: Path, learned: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    for name in names:
        if learned.get(name) is None or (name == "columns" and not learned[name]):
            raise ValueError(f"{path} was modified: its {what} has no {name}")


def _check_images(path: Path, learned: Mapping[str, Any]) -> None:
    check_types(path, learned, IMAGE_TYPES)
    _check_present(path, learned, ("classes", "image_size"), "image folder")
    levels = learned.get("levels")
    if levels is not None and not (len(levels) == 2 and all(isinstance(level, int) for level in levels)):
        raise ValueError(f"{path} was modified: its levels are {quote(levels)}")


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
