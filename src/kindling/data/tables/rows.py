"""Encoding of rows as features: data frames, files or dictionaries.

Numbers and dates are scaled robustly, missing ones replaced by the median. Two categories become -1 and 1; more are
one-hot, with zeros for categories unseen in training. Of more than 50 categories only frequent ones are one-hot, and
all are target-encoded: by the fraction of each class, or the mean of a numeric target, among their training rows.
Columns with missing values in training have a last feature that marks them.

The members of an ensemble may have encodings of their own: each column then has the number of its `member`, and the
features of all members follow each other.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats
from kindling.data.tables.categories import check_unseen, encode_categories, encode_target
from kindling.data.tables.cells import Cells, name_cells, read_cells
from kindling.data.tables.column_parsing import adapt_columns, as_numbers, drop_missing_words
from kindling.data.tables.files import read_table
from kindling.data.tables.scaling import are_far, distances, format_range, is_far_outside, scale
from kindling.data.tables.values import Column, Targets, abbreviate, as_name, missing_option, name_codes
from kindling.utils.console import progress
from kindling.utils.text import count_noun, join_names

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


def encode_rows(
    rows: Any, columns: Sequence[Column], source: object, missing: Sequence[str] = ()
) -> NDArray[np.float32]:
    """Encode rows with the encoding learned in training.

    Args:
        rows: A data frame, the path of a table, or a list of dictionaries; numbers may be texts.
        columns: The encoding of each column.
        source: Source of the rows, for messages.
        missing: Texts that mean a missing value, besides those learned in training.

    Returns:
        Features, shape (N, F).

    Raises:
        ValueError: If columns are missing, or have other contents than in training.
    """
    is_file = isinstance(rows, str | Path)  # a server encodes many small requests
    frame = as_frame(rows, columns)
    text = f"encoding {count_noun(len(frame), 'row', 'rows')} of {source}"
    with progress(text) if is_file else nullcontext():
        return encode_cells(frame_cells(frame, columns, missing), columns, source, frame.attrs.get("separator"))


def as_frame(rows: Any, columns: Sequence[Column]) -> "DataFrame":
    """Return rows in any form that `encode_rows` takes as a data frame."""
    import pandas as pd  # imported here because it takes 0.5 s

    if isinstance(rows, str | Path):
        return read_table(rows)
    if isinstance(rows, pd.DataFrame):
        return rows
    if isinstance(rows, list):
        names = {column["name"] for column in columns}
        rows = {name: [row.get(name) for row in rows] for name in names if any(name in row for row in rows)}
    return pd.DataFrame(rows)


def frame_cells(frame: "DataFrame", columns: Sequence[Column], missing: Sequence[str] = ()) -> dict[str, Cells]:
    """Return the cells of the columns that a data frame has."""
    names = {column["name"] for column in columns}
    return {name: read_cells(frame[name], missing) for name in frame if name in names}


def encode_cells(
    cells: Mapping[str, Cells],
    columns: Sequence[Column],
    file: object,
    separator: str | None,
    targets: Targets | None = None,
) -> NDArray[np.float32]:
    """Encode the cells of columns, see `encode_rows`; `targets` are those of training rows, see `encode_target`."""
    parts = [_encode_member(cells, each, file, separator, targets) for each in split_members(columns)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def split_members(columns: Sequence[Column]) -> list[list[Column]]:
    """Return the columns of each member of an ensemble; a single list if all members share the encoding."""
    return [[*group] for _, group in groupby(columns, key=lambda column: column.get("member", 0))]


def distinct_columns(columns: Sequence[Column]) -> list[Column]:
    """Return one column of each name: of those that several members of an ensemble encode, the first."""
    return [*{column["name"]: column for column in reversed(columns)}.values()][::-1]


def _encode_member(
    cells: Mapping[str, Cells],
    columns: Sequence[Column],
    file: object,
    separator: str | None,
    targets: Targets | None,
) -> NDArray[np.float32]:
    cells, adapted = match_cells(cells, columns, file, separator)
    features = np.zeros((len(next(iter(cells.values())).codes), sum(map(width, columns))), dtype=np.float32)
    end = 0
    for column in adapted:
        start, end = end, end + width(column)
        what = f"column {column['name']} of {file}"
        absent = _encode_column(cells[column["name"]], column, what, len(columns) == 1, targets, features[:, start:end])
        if len(absent) > 1 and absent.all():
            logger.warning(f"{what}: all values are missing")
        if column["missing"]:
            features[:, end - 1] = absent
    return features


def match_cells(
    cells: Mapping[str, Cells], columns: Sequence[Column], file: object, separator: str | None
) -> tuple[dict[str, Cells], list[Column]]:
    """Return the cells without texts that mean missing, and the columns with the formats of their file.

    Raises:
        ValueError: If columns are missing, or have other units than in training.
    """
    names = [column["name"] for column in columns]
    if lacking := [name for name in names if name not in cells]:
        raise ValueError(f"{file} lacks columns that the model was trained with: {join_names(lacking, 100)}")
    matched = {column["name"]: cells[column["name"]].select(drop=column["missing_values"]) for column in columns}
    return matched, adapt_columns(columns, matched, separator, file)


def width(column: Column) -> int:
    """Return the number of features of a column."""
    values = len(column["values"]) if column["kind"] == "category" else 1
    target = len(column["classes"]) if "encodings" in column else 0
    return (1 if values == 2 else values) + target + int(column["missing"])


def find_numeric_features(columns: Sequence[Column]) -> tuple[int, ...]:
    """Return the indices of the features that are numbers, rather than categories or marks of missing values."""
    found: list[int] = []
    end = 0
    for column in columns:
        start, end = end, end + width(column)
        last = end - int(column["missing"])
        found += [start] * (column["kind"] != "category")
        found += range(last - len(column["classes"]), last) if "encodings" in column else ()
    return tuple(found)


def _encode_column(
    cells: Cells, column: Column, what: str, is_only: bool, targets: Targets | None, features: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Write the features of a column except for the missing indicator; return which values are missing, (N,)."""
    if column["kind"] == "category":
        codes, names = name_cells(cells)
        encode_categories(codes, names, column, features)
    else:
        numbers = read_numbers(cells, column, what)
        features[:, 0] = scale(np.where(np.isnan(numbers), column["median"], numbers), column)
        codes, names = name_codes(numbers) if "known" in column else (np.where(np.isnan(numbers), -1, 0), [])
    if column["kind"] == "category" or "known" in column:
        check_unseen(codes, names, column, what, is_only)
    if "encodings" in column:
        start = features.shape[1] - column["missing"] - len(column["classes"])
        features[:, start : start + len(column["classes"])] = encode_target(codes, names, column, targets)
    return codes < 0


def read_numbers(cells: Cells, column: Column, what: str) -> Floats:
    """Return the numbers or days (N,) of a column, NaN where missing, and warn about unusual ones.

    Raises:
        ValueError: If most values are not of the kind of the column, number or date.
    """
    numbers, unparsed = as_numbers(cells, column)
    if len(unparsed) and len(unparsed := drop_missing_words(cells, unparsed, what)):
        example, present = _example(cells, unparsed[0]), np.count_nonzero(~np.isnan(numbers)) + len(unparsed)
        if 2 * len(unparsed) > present:  # this is a different column; a few would be dirty data
            raise ValueError(f"{what} must contain {column['kind']}s, got {example}")
        counts = f"{len(unparsed):,} of {count_noun(int(present), 'value', 'values')}"
        logger.warning(f"{what}: {counts} can't be read as a {column['kind']}, such as {example}; treated as missing")
    warn_far(numbers, cells, column, what)
    return numbers


def warn_far(numbers: Floats, cells: Cells, column: Column, what: str) -> None:
    """Warn about numbers (N,) of a file far from the training values: most of them, or a few."""
    far = np.flatnonzero(are_far(numbers, column))
    if is_far_outside(numbers, column):
        logger.warning(_describe_far_outside(numbers, cells, column, what))
    elif len(far):
        present = np.count_nonzero(~np.isnan(numbers))
        values = {cells.values[code] for code in cells.codes[far].tolist()}
        option = (
            f"; if it means missing, {missing_option([*map(as_name, values)])}" if len(far) > len(values) == 1 else ""
        )
        example = _example(cells, far[0])
        counts = f"{len(far):,} of {count_noun(int(present), 'value is', 'values are')}"
        logger.warning(f"{what}: {counts} far from the others, such as {example}{option}")


def _example(cells: Cells, row: int) -> str:
    return abbreviate(cells.values[cells.codes[row]])


def _describe_far_outside(numbers: Floats, cells: Cells, column: Column, what: str) -> str:
    row = int(np.nanargmax(distances(numbers, column)))
    example = _example(cells, row)
    read = f" (read as {numbers[row]:.6g})" if column["kind"] == "number" and example != f"{numbers[row]:.6g}" else ""
    return f"{what}: values such as {example}{read} are far from the training range, {format_range(column)}"
