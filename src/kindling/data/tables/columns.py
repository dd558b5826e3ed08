"""Encoding of table columns as features, learned from the training rows.

The learned encoding of a column is a dictionary of plain values, saved in the checkpoint:
`{"name": "age", "kind": "number", "decimal": ".", "units": [], "range": [18.0, 80.0], "missing_values": ["NA"],
"median": 38.0, "center": 38.0, "scale": 26.0, "limit": 5.0, "missing": True}`,
`{"name": "since", "kind": "date", "day_first": False, ...}` with the rest as for a number, in days; or
`{"name": "plan", "kind": "category", "values": ["basic", "gold"], "missing": False, "missing_values": []}`.
Columns with many categories, or with numbers that are codes, also have a target encoding: `{..., "known": ["Ulm", ...],
"classes": [1], "prior": [0.4], "smoothing": 2.1, "encodings": [[0.37], ...]}`, see `kindling.data.tables.categories`.
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.categories import (
    UNRELATED,
    are_codes,
    check_unseen,
    encode_categories,
    encode_target,
    is_text,
    learn_categories,
    learn_target,
)
from kindling.data.tables.cells import Cells, name_cells, read_cells
from kindling.data.tables.file_style import SAMPLE_SIZE, FileStyle, read_style
from kindling.data.tables.quantities import read_quantities
from kindling.data.tables.ranges import distances, format_range, is_far_outside
from kindling.data.tables.reading import (
    MIN_NUMBERS,
    NUMERIC_FRACTION,
    adapt_columns,
    as_numbers,
    drop_missing_words,
    learn_kind,
    missing_values,
    warn_ambiguous,
)
from kindling.data.tables.scaling import are_far, learn_scale, scale
from kindling.data.tables.values import (
    Column,
    Floats,
    Indices,
    abbreviate,
    as_name,
    missing_option,
)
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pandas import DataFrame

ID_FRACTION = 0.95  # of the values are distinct in an ID column

# Such as ~12, 5-10, 1 1/2, kg 12, KW 9/2024, "Freitag, 1. März 2024" or PT5M, but not a UUID.
STARTS_AS_NUMBER = re.compile(
    r"[(<>~≈]? ?[-+]? ?[^\w\s]?\d(?![0-9a-f]{7}-)|[^\W\d_]{1,3}\.? -?\d[\d.,/]*$|[^\W\d_]{2,10}\.?, ?\d|PT?\d"
)
WRITE_AS = "if it is a number or a date, write it as 1234.5 or 2024-12-31 23:59"
CONSTANT = "constant"
ID = "looks like an ID column"
TEXT = "free text, names or IDs"

# customer_id, CUSTOMERID, userId, EmployeeNumber, order no, but not paid or casino
ID_NAME = re.compile(
    r"(?i:(^|.*[\W_])(id|no|nr)|.*(uid|guid|number|kundennr)"
    r"|(?!.*(paid|valid|grid|acid|bid|fluid|liquid|solid|lipid|humid|rapid|covid|void|hybrid|roid)$).*id)"
    r"|.*[a-z](No|Nr|NO|NR)"
)


def learn_columns(
    cells: Mapping[str, Cells],
    labels: Indices,
    rows: int,
    separator: str | None = None,
    missing: Sequence[str] = (),
    decimal: str | None = None,
) -> tuple[list[Column], dict[str, str]]:
    """Learn the encoding of columns from the training rows.

    Args:
        cells: The columns of the training rows, without the target.
        labels: Class of each training row, shape (N,).
        rows: Number of rows in the whole file.
        separator: Field separator; None if it is not a CSV.
        missing: Texts that mean a missing value.
        decimal: Decimal sign of columns with ambiguous numbers only.

    Returns:
        The encoding of each column, and the reason for each column that is left out.

    Raises:
        ValueError: If no column is left.
    """
    style = read_style(cells, separator, decimal)
    learned = {name: learn_column(name, column, labels, rows, style, missing) for name, column in cells.items()}
    columns = [column for column in learned.values() if not isinstance(column, str)]
    left_out = {name: reason for name, reason in learned.items() if isinstance(reason, str)}
    for reason in dict.fromkeys(left_out.values()):
        logger.warning(f"left out: {join_names([name for name in left_out if left_out[name] == reason])} ({reason})")
    warn_ambiguous(columns, cells, style)
    if not columns:
        raise ValueError("no feature columns are left: all columns are the target, dropped or left out")
    return columns, left_out


def learn_column(
    name: str, cells: Cells, labels: Indices, rows: int, style: FileStyle, missing: Sequence[str]
) -> Column | str:
    """Return the encoding of one column, or the reason for leaving it out."""
    if found := learn_kind(name, cells, style, missing):
        return _learn_numbers(*found, labels, rows)
    codes, names = name_cells(cells)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    absent = bool((codes < 0).any())
    if len(names) + absent < 2:
        return CONSTANT
    if is_text(counts):
        return _describe_text(cells, TEXT)
    _warn_about_numbers(name, cells, missing)
    if not (learned := learn_categories(name, codes, names, labels)):
        return _describe_text(cells, UNRELATED)
    return {"name": name, "kind": "category", "missing": absent, "missing_values": sorted(missing)} | learned


def _warn_about_numbers(name: str, cells: Cells, missing: Sequence[str]) -> None:
    """Warn if a categorical column is mostly numbers, or its values look like numbers."""
    numbers = ~np.isnan(cells.quantities(".")[0])
    if 2 * cells.counts[numbers].sum() > cells.counts.sum() and not numbers.all():
        texts = [as_name(cells.values[position]) for position in np.flatnonzero(~numbers)]
        option = f"; if they mean missing, {missing_option([*missing, *texts])}" if len(texts) <= 3 else ""
        others = count_noun(int(cells.counts[~numbers].sum()), "value is not a number", "values are not numbers")
        logger.warning(f"column {name} is read as categories: {others}, such as {abbreviate(texts[0])}{option}")
    elif not numbers.any() and len(cells.values) > MIN_NUMBERS and _start_as_numbers([*map(str, cells.values)]):
        logger.warning(f"column {name} is read as categories, such as {abbreviate(cells.values[0])}: {WRITE_AS}")


def _start_as_numbers(texts: Sequence[str]) -> bool:
    return 2 * sum(map(bool, map(STARTS_AS_NUMBER.match, texts))) > len(texts)


def _describe_text(cells: Cells, reason: str) -> str:
    """Return the reason for leaving out a text column, with advice if it looks like numbers or dates."""
    texts = [str(value) for value in cells.values[:: len(cells.values) // SAMPLE_SIZE + 1]]
    numbers, units = read_quantities(texts, ".")
    if np.mean(~np.isnan(numbers)) >= NUMERIC_FRACTION and len({*units}) > 1:
        return f"numbers in several units, such as {abbreviate(texts[0])}: convert them to one"
    if _start_as_numbers(texts):
        return f"text such as {abbreviate(texts[0])}: {WRITE_AS}"
    return reason


def _learn_numbers(kind: Column, numbers: Floats, labels: Indices, rows: int) -> Column | str:
    known = numbers[~np.isnan(numbers)]
    missing = len(known) < len(numbers)
    distinct = len(np.unique(known))
    if distinct + missing < 2 or not distinct:
        return CONSTANT
    is_whole = kind["kind"] == "number" and not kind["units"] and not (known % 1).any()
    if (
        is_whole
        and distinct >= ID_FRACTION * len(numbers)
        and (np.ptp(known) < rows or ID_NAME.fullmatch(kind["name"]))
    ):
        return ID
    learned = kind | learn_scale(known) | {"missing": missing}
    if kind["kind"] == "number" and are_codes(known, labels[~np.isnan(numbers)]):
        learned |= learn_target(kind["name"], *name_codes(numbers), labels)
    return learned


def name_codes(numbers: Floats) -> tuple[Indices, list[str]]:
    """Return the index of each number among the distinct ones, -1 for NaN; and the distinct ones as text."""
    known = np.unique(numbers[~np.isnan(numbers)])
    codes = np.where(np.isnan(numbers), -1, np.searchsorted(known, numbers))
    return codes, [str(int(value)) for value in known.tolist()]


def width(column: Column) -> int:
    """Return the number of features of a column."""
    values = len(column["values"]) if column["kind"] == "category" else 1
    target = len(column["classes"]) if "encodings" in column else 0
    return (1 if values == 2 else values) + target + int(column["missing"])


def encode(
    frame: "DataFrame",
    columns: Sequence[Column],
    file: object,
    labels: Indices | None = None,
    missing: Collection[str] = (),
) -> NDArray[np.float32]:
    """Encode rows with the learned encoding.

    Numbers and dates are scaled robustly, missing ones replaced by the median. Two categories become -1 and 1;
    more are encoded one-hot, with zeros for categories unseen in training. Of more than 50 categories only frequent
    ones are one-hot, and all are target-encoded: by the fraction of each class among their training rows. Columns
    with missing values in training have a last feature that marks them.

    Args:
        frame: Rows with at least these columns, in any order; numbers may be text.
        columns: The encoding of each column.
        file: Source of the rows, for messages.
        labels: Class of each training row, -1 elsewhere, shape (N,); None if there are no training rows.
        missing: Texts that mean a missing value, besides those learned in training.

    Returns:
        Features, shape (N, F).

    Raises:
        ValueError: If columns are missing, or have other contents than in training.
    """
    names = {column["name"] for column in columns}
    cells = {name: read_cells(frame[name], missing) for name in frame if name in names}
    return encode_cells(cells, columns, file, frame.attrs.get("separator"), labels)


def encode_cells(
    cells: Mapping[str, Cells],
    columns: Sequence[Column],
    file: object,
    separator: str | None,
    labels: Indices | None = None,
) -> NDArray[np.float32]:
    """Encode the cells of columns, see `encode`."""
    names = [column["name"] for column in columns]
    if lacking := [name for name in names if name not in cells]:
        raise ValueError(f"{file} lacks columns that the model was trained with: {join_names(lacking, 100)}")
    cells = {column["name"]: cells[column["name"]].drop(missing_values(column)) for column in columns}
    features = np.zeros((len(cells[names[0]].codes), sum(map(width, columns))), dtype=np.float32)
    end = 0
    for column in adapt_columns(columns, cells, separator, file):
        start, end = end, end + width(column)
        what = f"column {column['name']} of {file}"
        absent = _encode_column(cells[column["name"]], column, what, len(columns) == 1, labels, features[:, start:end])
        if len(absent) > 1 and absent.all():
            logger.warning(f"{what}: all values are missing")
        if column["missing"]:
            features[:, end - 1] = absent
    return features


def _encode_column(
    cells: Cells, column: Column, what: str, is_only: bool, labels: Indices | None, features: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Write the features of a column except for the missing indicator; return which values are missing, (N,)."""
    if column["kind"] == "category":
        codes, names = name_cells(cells)
        encode_categories(codes, names, column, features)
    else:
        numbers = _read_numbers(cells, column, what)
        features[:, 0] = scale(np.where(np.isnan(numbers), column["median"], numbers), column)
        codes, names = name_codes(numbers) if "known" in column else (np.where(np.isnan(numbers), -1, 0), [])
    if column["kind"] == "category" or "known" in column:
        check_unseen(codes, names, column, what, is_only)
    if "encodings" in column:
        start = features.shape[1] - column["missing"] - len(column["classes"])
        features[:, start : start + len(column["classes"])] = encode_target(codes, names, column, labels)
    return codes < 0


def _read_numbers(cells: Cells, column: Column, what: str) -> Floats:
    numbers, unparsed = as_numbers(cells, column)
    if len(unparsed) and len(unparsed := drop_missing_words(cells, unparsed, what)):
        example, present = _example(cells, unparsed[0]), np.count_nonzero(~np.isnan(numbers)) + len(unparsed)
        if 2 * len(unparsed) > present:  # this is a different column; a few would be dirty data
            raise ValueError(f"{what} must contain {column['kind']}s, got {example}")
        counts = f"{len(unparsed):,} of {count_noun(int(present), 'value', 'values')}"
        logger.warning(f"{what}: {counts} can't be read as a {column['kind']}, such as {example}; treated as missing")
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
    return numbers


def _example(cells: Cells, row: int) -> str:
    return abbreviate(cells.values[cells.codes[row]])


def _describe_far_outside(numbers: Floats, cells: Cells, column: Column, what: str) -> str:
    row = int(np.nanargmax(distances(numbers, column)))
    example = _example(cells, row)
    read = f" (read as {numbers[row]:.6g})" if column["kind"] == "number" and example != f"{numbers[row]:.6g}" else ""
    return f"{what}: values such as {example}{read} are far from the training range, {format_range(column)}"
