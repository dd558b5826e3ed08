"""Columns of a table as features: what is learned from the training rows, and any rows encoded by it.

What is learned of a column is plain values, for a checkpoint:
`{"name": "age", "kind": "number", "decimal": ".", "units": [], "range": [18.0, 80.0], "missing_values": ["NA"],
"median": 38.0, "center": 38.0, "scale": 26.0, "limit": 5.0, "missing": True}`,
`{"name": "since", "kind": "date", "day_first": False, ...}` with the rest as for a number, in days, or
`{"name": "plan", "kind": "category", "values": ["basic", "gold"], "missing": False, "missing_values": []}`.
A column with many categories, or with numbers that are codes, has a target encoding too: `{..., "known": ["Ulm", ...],
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
from kindling.data.tables.file_style import SAMPLED, FileStyle, read_style
from kindling.data.tables.quantities import read_quantities
from kindling.data.tables.ranges import distances, in_words, is_far_outside
from kindling.data.tables.reading import (
    MANY_NUMBERS,
    NUMERIC_SHARE,
    adapt_columns,
    as_numbers,
    drop_missing_words,
    learn_kind,
    missing_values,
    tell_ambiguous,
)
from kindling.data.tables.scaling import are_far, learn_scale, scale
from kindling.data.tables.values import (
    Column,
    Floats,
    Indices,
    as_name,
    in_brief,
    missing_option,
)
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pandas import DataFrame

ID_SHARE = 0.95  # of the values are different in a column of ids

# Such as ~12, 5-10, 1 1/2, kg 12, KW 9/2024, "Freitag, 1. März 2024" or PT5M; but no UUID.
STARTS_AS_NUMBER = re.compile(
    r"[(<>~≈]? ?[-+]? ?[^\w\s]?\d(?![0-9a-f]{7}-)|[^\W\d_]{1,3}\.? -?\d[\d.,/]*$|[^\W\d_]{2,10}\.?, ?\d|PT?\d"
)
WRITE_AS = "if it is a number or a date, write it as 1234.5 or 2024-12-31 23:59"
CONSTANT = "always the same"
ID = "an id: a number for each row"
TEXT = "text that differs from row to row: an id, a name"

# customer_id, CUSTOMERID, userId, EmployeeNumber, order no; but neither paid nor casino
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
    """Learn from the training rows how columns are encoded.

    Args:
        cells: The columns of the training rows, without the target.
        labels: Their classes, shape (N,).
        rows: Rows of the whole file.
        separator: Separator of its fields; None where it is no CSV.
        missing: Texts that stand for missing values.
        decimal: Decimal sign of columns whose own numbers could have either.

    Returns:
        What was learned of each column; and the columns left out, each with the reason.

    Raises:
        ValueError: If no column is left.
    """
    style = read_style(cells, separator, decimal)
    learned = {name: learn_column(name, column, labels, rows, style, missing) for name, column in cells.items()}
    columns = [column for column in learned.values() if not isinstance(column, str)]
    left_out = {name: reason for name, reason in learned.items() if isinstance(reason, str)}
    for reason in dict.fromkeys(left_out.values()):
        logger.warning(f"left out: {join_names([name for name in left_out if left_out[name] == reason])} ({reason})")
    tell_ambiguous(columns, cells, style)
    if not columns:
        raise ValueError("there is no column to learn from beside the target and those left out")
    return columns, left_out


def learn_column(
    name: str, cells: Cells, labels: Indices, rows: int, style: FileStyle, missing: Sequence[str]
) -> Column | str:
    """Learn one column; a reason to leave it out is a string."""
    if found := learn_kind(name, cells, style, missing):
        return _learn_numbers(*found, labels, rows)
    codes, names = name_cells(cells)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    absent = bool((codes < 0).any())
    if len(names) + absent < 2:
        return CONSTANT
    if is_text(counts):
        return _describe_text(cells, TEXT)
    _hint_at_numbers(name, cells, missing)
    if not (learned := learn_categories(name, codes, names, labels)):
        return _describe_text(cells, UNRELATED)
    return {"name": name, "kind": "category", "missing": absent, "missing_values": sorted(missing)} | learned


def _hint_at_numbers(name: str, cells: Cells, missing: Sequence[str]) -> None:
    """Say what keeps a column of numbers, or of what looks like them, from being read as such."""
    numbers = ~np.isnan(cells.quantities(".")[0])
    if 2 * cells.counts[numbers].sum() > cells.counts.sum() and not numbers.all():
        texts = [as_name(cells.values[place]) for place in np.flatnonzero(~numbers)]
        option = f"; if they mean missing, {missing_option([*missing, *texts])}" if len(texts) <= 3 else ""
        logger.warning(
            f"column {name} is read as categories: "
            f"{count_noun(int(cells.counts[~numbers].sum()), 'value is no number', 'values are no numbers')}, such as "
            f"{in_brief(texts[0])}{option}"
        )
    elif not numbers.any() and len(cells.values) > MANY_NUMBERS and _start_as_numbers([*map(str, cells.values)]):
        logger.warning(f"column {name} is read as categories, such as {in_brief(cells.values[0])}: {WRITE_AS}")


def _start_as_numbers(texts: Sequence[str]) -> bool:
    return 2 * sum(map(bool, map(STARTS_AS_NUMBER.match, texts))) > len(texts)


def _describe_text(cells: Cells, reason: str) -> str:
    """Return the reason why text is left out, or what to do if it looks like numbers or dates."""
    texts = [str(value) for value in cells.values[:: len(cells.values) // SAMPLED + 1]]
    numbers, units = read_quantities(texts, ".")
    if np.mean(~np.isnan(numbers)) >= NUMERIC_SHARE and len({*units}) > 1:
        return f"numbers in several units, such as {in_brief(texts[0])}: convert them to one"
    if _start_as_numbers(texts):
        return f"text such as {in_brief(texts[0])}: {WRITE_AS}"
    return reason


def _learn_numbers(kind: Column, numbers: Floats, labels: Indices, rows: int) -> Column | str:
    known = numbers[~np.isnan(numbers)]
    missing = len(known) < len(numbers)
    different = len(np.unique(known))
    if different + missing < 2 or not different:
        return CONSTANT
    whole = kind["kind"] == "number" and not kind["units"] and not (known % 1).any()
    if whole and different >= ID_SHARE * len(numbers) and (np.ptp(known) < rows or ID_NAME.fullmatch(kind["name"])):
        return ID
    learned = kind | learn_scale(known) | {"missing": missing}
    if kind["kind"] == "number" and are_codes(known, labels[~np.isnan(numbers)]):
        learned |= learn_target(kind["name"], *name_codes(numbers), labels)
    return learned


def name_codes(numbers: Floats) -> tuple[Indices, list[str]]:
    """Read numbers as codes: the index of each in the list, -1 where it is NaN; and the list of them as text."""
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
    """Encode rows by what was learned.

    Numbers and dates, with the median in place of missing ones, are scaled by the spread of the training rows, so that
    a few wild ones do not matter. Of two categories one is -1, the other 1; of more, each has a feature of its own,
    which is 1, and a category unseen in training is 0 in all of them. Of more than 50 this holds for frequent ones,
    and all are encoded by the share of each class among their training rows. Where values were missing in training, a
    last feature says whether they are.

    Args:
        frame: Rows with at least these columns, in any order; numbers may come as such or as text.
        columns: What was learned of each column.
        file: Where the rows come from, for messages.
        labels: Class of each row that the columns were learned from, -1 elsewhere, shape (N,). By default none was.
        missing: Texts that stand for missing values in these rows, beside those of the training rows.

    Returns:
        Features, shape (N, F).

    Raises:
        ValueError: If columns are missing, or hold something else than in training.
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
            logger.warning(f"{what}: all missing")
        if column["missing"]:
            features[:, end - 1] = absent
    return features


def _encode_column(
    cells: Cells, column: Column, what: str, alone: bool, labels: Indices | None, features: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Write the features of a column but for that of missing values, and return which are missing, (N,)."""
    if column["kind"] == "category":
        codes, names = name_cells(cells)
        encode_categories(codes, names, column, features)
    else:
        numbers = _read_numbers(cells, column, what)
        features[:, 0] = scale(np.where(np.isnan(numbers), column["median"], numbers), column)
        codes, names = name_codes(numbers) if "known" in column else (np.where(np.isnan(numbers), -1, 0), [])
    if column["kind"] == "category" or "known" in column:
        check_unseen(codes, names, column, what, alone)
    if "encodings" in column:
        start = features.shape[1] - column["missing"] - len(column["classes"])
        features[:, start : start + len(column["classes"])] = encode_target(codes, names, column, labels)
    return codes < 0


def _read_numbers(cells: Cells, column: Column, what: str) -> Floats:
    numbers, strays = as_numbers(cells, column)
    if len(strays) and len(strays := drop_missing_words(cells, strays, what)):
        example, given = _example(cells, strays[0]), np.count_nonzero(~np.isnan(numbers)) + len(strays)
        if 2 * len(strays) > given:  # a few are dirt, but this is another column
            raise ValueError(f"{what} must hold {column['kind']}s, not {example}")
        share = f"{len(strays):,} of {count_noun(int(given), 'value', 'values')}"
        logger.warning(f"{what}: {share} can't be read as a {column['kind']}, such as {example}; treated as missing")
    far = np.flatnonzero(are_far(numbers, column))
    if is_far_outside(numbers, column):
        logger.warning(_far_outside(numbers, cells, column, what))
    elif len(far):
        given = np.count_nonzero(~np.isnan(numbers))
        values = {cells.values[code] for code in cells.codes[far].tolist()}
        option = (
            f"; if that means missing, {missing_option([*map(as_name, values)])}" if len(far) > len(values) == 1 else ""
        )
        example = _example(cells, far[0])
        share = f"{len(far):,} of {count_noun(int(given), 'value is', 'values are')}"
        logger.warning(f"{what}: {share} far from the others, such as {example}{option}")
    return numbers


def _example(cells: Cells, row: int) -> str:
    return in_brief(cells.values[cells.codes[row]])


def _far_outside(numbers: Floats, cells: Cells, column: Column, what: str) -> str:
    row = int(np.nanargmax(distances(numbers, column)))
    example = _example(cells, row)
    read = f" (read as {numbers[row]:.6g})" if column["kind"] == "number" and example != f"{numbers[row]:.6g}" else ""
    return f"{what}: values such as {example}{read} are far from those of the training, {in_words(column)}"
