"""Columns of a table as numbers: what is learned from the training rows, and any rows encoded by it.

What is learned of a column is plain values, for a checkpoint: `{"name": "age", "kind": "number", "median": 38.0,
"missing": True}` or `{"name": "plan", "kind": "category", "values": ["basic", "gold"], "missing": False}`.
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kindling.console import say
from kindling.wording import listed

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Column = dict[str, Any]
Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]

# What stands for a missing value, in lower case; and in the target, where "none" and "-" may well be classes.
MISSING = frozenset(["", "?", "-", "--", ".", "na", "n/a", "n.a.", "nan", "null", "none", "nil", "<na>", "#n/a"])
NO_CLASS = frozenset(["", "?", "na", "n/a", "nan", "null", "<na>", "#n/a"])
MOST_CATEGORIES = 50  # of a column that has more, the rarest are as if unseen
NUMERIC_SHARE = 0.95  # of the values must be numbers for a column to be one of numbers

CONSTANT = "always the same"
ID = "an id: a number for each row"
TEXT = "text that differs from row to row: an id, a name, a date"


def to_names(column: "Series[Any]", missing: Collection[str] = MISSING) -> tuple[Indices, list[str]]:
    """Reads a column as names.

    Returns:
        For each row the place of its name in the list, or -1 where it has none, shape (N,); and the list of different
        names, sorted: numbers by size, others by the alphabet.
    """
    codes, values = column.factorize()
    names = [as_name(value) for value in values]
    known = sorted({name for name in names if name.lower() not in missing})
    numbers = [as_number(name) for name in known]
    if not any(map(math.isnan, numbers)):
        known = [name for _, name in sorted(zip(numbers, known, strict=True))]
    place = {name: number for number, name in enumerate(known)}
    return np.array([*(place.get(name, -1) for name in names), -1])[codes], known


def as_name(value: object) -> str:
    """A value as text that is the same whichever way a file was read: 3.0 is "3", True is "true"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    name = str(value).strip()
    return name.lower() if name.lower() in ("true", "false") else name


def as_number(name: str) -> float:
    """The number that a name is; NaN if it is none."""
    try:
        return float(name)
    except ValueError:
        return math.nan


def to_numbers(column: "Series[Any]") -> tuple[Floats, Indices]:
    """Reads a column as numbers.

    Returns:
        The numbers, float64 (N,), NaN where there is none or it is infinite in float32; and the rows that hold
        something that is no number.
    """
    if column.dtype.kind in "iuf":
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        strays: Indices = np.empty(0, dtype=np.int64)
    else:
        codes, names = to_names(column)
        numbers = np.array([*map(as_number, names), math.nan])[codes]
        strays = np.flatnonzero(np.isnan(numbers) & (codes >= 0))
    return np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan), strays


def learn_columns(frame: "DataFrame", rows: int) -> tuple[list[Column], dict[str, str]]:
    """Learns from the training rows how columns are encoded.

    Args:
        frame: The training rows, without the target.
        rows: Rows of the whole file.

    Returns:
        What was learned of each column; and the columns left out, each with the reason.

    Raises:
        ValueError: If no column is left.
    """
    learned = {name: learn_column(frame[name], rows) for name in frame}
    columns = [column for column in learned.values() if not isinstance(column, str)]
    left_out = {name: reason for name, reason in learned.items() if isinstance(reason, str)}
    for reason in dict.fromkeys(left_out.values()):
        say(f"left out: {listed([name for name in left_out if left_out[name] == reason])} ({reason})")
    if not columns:
        raise ValueError("there is no column to learn from beside the target and those left out")
    return columns, left_out


def learn_column(column: "Series[Any]", rows: int) -> Column | str:
    """Learns one column; a reason to leave it out is a string."""
    numbers, strays = to_numbers(column)
    known = np.count_nonzero(~np.isnan(numbers))
    if known >= NUMERIC_SHARE * (known + len(strays)):
        return _learn_numbers(str(column.name), numbers, rows)
    codes, names = to_names(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    missing = bool((codes < 0).any())
    if len(names) + missing < 2:
        return CONSTANT
    if len(names) > 2 and 2 * len(names) > counts.sum():
        return TEXT
    frequent = np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]
    return {
        "name": column.name,
        "kind": "category",
        "values": [names[place] for place in sorted(frequent)],
        "missing": missing,
    }


def _learn_numbers(name: str, numbers: Floats, rows: int) -> Column | str:
    known = numbers[~np.isnan(numbers)]
    missing = len(known) < len(numbers)
    different = len(np.unique(known))
    if different + missing < 2 or not different:
        return CONSTANT
    if different == len(numbers) and _numbers_rows(name, known, rows):
        return ID
    return {"name": name, "kind": "number", "median": float(np.median(known)), "missing": missing}


def _numbers_rows(name: str, numbers: Floats, rows: int) -> bool:
    """Whether different numbers are ids: by the column's name, or since they lie as close as consecutive ones."""
    if (numbers % 1).any():
        return False
    return bool(re.search(r"(?i:(^|[\W_])id$)|[a-z]I[dD]$", name) or np.ptp(numbers) < rows)


def width(column: Column) -> int:
    """Features that a column gives."""
    single = column["kind"] == "number" or len(column["values"]) == 2
    return (1 if single else len(column["values"])) + int(column["missing"])


def encode(frame: "DataFrame", columns: Sequence[Column], file: object) -> NDArray[np.float32]:
    """Encodes rows by what was learned.

    Numbers stay as they are, missing ones take the median. Of two categories one is -1, the other 1; of more, each has
    a feature of its own; a category not seen in training is 0 in all of them. Where values were missing in training, a
    last feature says whether they are.

    Args:
        frame: Rows with at least these columns, in any order.
        columns: What was learned of each column.
        file: Where the rows come from, for messages.

    Returns:
        Features, shape (N, F).

    Raises:
        ValueError: If columns are missing, or text stands where numbers are expected.
    """
    if absent := [column["name"] for column in columns if column["name"] not in frame]:
        raise ValueError(f"{file} lacks columns that the model was trained with: {listed(absent, 100)}")
    features: list[NDArray[Any]] = []
    for column in columns:
        encode_one = _encode_numbers if column["kind"] == "number" else _encode_categories
        values, missing = encode_one(frame[column["name"]], column, file)
        features += [values, missing[:, None]] if column["missing"] else [values]
    return np.concatenate([values.astype(np.float32, copy=False) for values in features], axis=1)


def _encode_numbers(values: "Series[Any]", column: Column, file: object) -> tuple[Floats, NDArray[np.bool_]]:
    numbers, strays = to_numbers(values)
    missing = np.isnan(numbers)
    if len(strays):
        what, example = f"column {values.name} of {file}", values.iloc[strays[0]]
        if 2 * len(strays) > missing.size:  # a few are dirt, but this is another column
            raise ValueError(f"{what} must hold numbers, not {example}")
        say(f"{what}: {len(strays):,} of {len(values):,} are no numbers, such as {example}: they count as missing")
    return np.where(missing, column["median"], numbers)[:, None], missing


def _encode_categories(values: "Series[Any]", column: Column, file: object) -> tuple[Floats, NDArray[np.bool_]]:
    codes, names = to_names(values)
    known = {name: place for place, name in enumerate(column["values"])}
    if names and known.keys().isdisjoint(names):
        say(f"column {values.name} of {file}: no value is known from training, neither {listed(names, 3)}")
    places = np.array([*(known.get(name, -1) for name in names), -1])[codes]
    # The last row of each matrix is that of -1.
    two = np.array([[-1.0], [1.0], [0.0]], dtype=np.float32)
    matrix = two if len(known) == 2 else np.eye(len(known) + 1, len(known), dtype=np.float32)
    return matrix[places], codes < 0


def twins(frame: "DataFrame", columns: Sequence[Column], labels: Indices) -> list[str]:
    """The columns that say the class by themselves: each value goes with one class and each class with one value."""
    classes = len(np.unique(labels))
    found = []
    for name in (column["name"] for column in columns):
        codes, values = frame[name].factorize(use_na_sentinel=False)
        if len(values) == classes == len(np.unique(codes * classes + labels)):
            found.append(name)
    return found
