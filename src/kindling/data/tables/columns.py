"""Learning how to encode the columns of a table as features, from the training rows; `rows.py` encodes them.

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
from collections.abc import Mapping, Sequence

import numpy as np

from kindling.data.array_types import Floats
from kindling.data.tables.categories import UNRELATED, are_codes, is_text, learn_categories, learn_target
from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.column_types import MIN_NUMBERS, NUMERIC_FRACTION, learn_kind, warn_ambiguous
from kindling.data.tables.file_style import SAMPLE_SIZE, FileStyle, read_style
from kindling.data.tables.number_parsing import read_quantities
from kindling.data.tables.scaling import learn_scale
from kindling.data.tables.values import Column, Targets, abbreviate, as_name, missing_option, name_codes
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

ID_FRACTION = 0.95  # minimum fraction of distinct values in an ID column
MAX_KEY = 64  # characters of a value that identifies a row

# Such as ~12, 5-10, 1 1/2, ="12", kg 12, KW 9/2024, "Freitag, 1. März 2024" or PT5M, but not a UUID or P0850.
STARTS_AS_NUMBER = re.compile(
    r"[(<>~≈=]? ?[-+]? ?[^\w\s]?\d(?![0-9a-f]{7}-)|[^\W\d_]{1,3}\.? -?\d[\d.,/]*$|[^\W\d_]{2,10}\.?, ?\d|PT?\d+[YMWDHS]"
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
    targets: Targets,
    rows: int,
    separator: str | None = None,
    missing: Sequence[str] = (),
    decimal: str | None = None,
) -> tuple[list[Column], dict[str, str]]:
    """Learn the encoding of columns from the training rows and their targets (N,).

    Args:
        cells: The columns of the training rows.
        targets: Class, or scaled number, of each training row.
        rows: Number of rows in the whole file.
        separator: Field separator; None if it is not a CSV.
        missing: Texts that mean a missing value.
        decimal: Decimal sign of columns with ambiguous numbers only.

    Returns:
        The encoding of each column, and the reason for each column that is left out.
    """
    style = read_style(cells, separator, decimal)
    learned = {name: learn_column(name, column, targets, rows, style, missing) for name, column in cells.items()}
    columns = [column for column in learned.values() if not isinstance(column, str)]
    left_out = {name: reason for name, reason in learned.items() if isinstance(reason, str)}
    for reason in dict.fromkeys(left_out.values()):
        logger.warning(f"left out: {join_names([name for name in left_out if left_out[name] == reason])} ({reason})")
    warn_ambiguous(columns, cells, style)
    if not columns:
        raise ValueError("no feature columns are left: all columns are the target, dropped or left out")
    return columns, left_out


def is_key(cells: Cells) -> bool:
    """Return whether the cells of a column identify the rows: each has another value, none of them long."""
    is_unique = len(cells.values) == len(cells.codes) and (cells.codes >= 0).all()
    return bool(is_unique) and all(len(str(value)) <= MAX_KEY for value in cells.values)


def learn_column(
    name: str, cells: Cells, targets: Targets, rows: int, style: FileStyle, missing: Sequence[str]
) -> Column | str:
    """Return the encoding of one column, or the reason for leaving it out."""
    if found := learn_kind(name, cells, style, missing):
        return _learn_numbers(*found, targets, rows)
    codes, names = name_cells(cells)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    absent = bool((codes < 0).any())
    if len(names) + absent < 2:
        return CONSTANT
    if is_text(counts):
        return _describe_text(cells, TEXT)
    _warn_about_numbers(name, cells, missing)
    if not (learned := learn_categories(name, codes, names, targets)):
        return _describe_text(cells, UNRELATED)
    return {"name": name, "kind": "category", "missing": absent, "missing_values": sorted(missing)} | learned


def _warn_about_numbers(name: str, cells: Cells, missing: Sequence[str]) -> None:
    """Warn if a categorical column is mostly numbers, or its values look like numbers."""
    quantities, units = cells.quantities(".")
    numbers = ~np.isnan(quantities)
    if 2 * cells.counts[numbers].sum() > cells.counts.sum() and not numbers.all():
        texts = [as_name(cells.values[position]) for position in np.flatnonzero(~numbers)]
        option = f"; if they mean missing, {missing_option([*missing, *texts])}" if len(texts) <= 3 else ""
        others = count_noun(int(cells.counts[~numbers].sum()), "value is not a number", "values are not numbers")
        logger.warning(f"column {name} is read as categories: {others}, such as {abbreviate(texts[0])}{option}")
    elif len(cells.values) > MIN_NUMBERS and numbers.all() and len({*units}) > 1:
        logger.warning(f"column {name} is read as categories: {_describe_units(cells.values[0])}")
    elif not numbers.any() and len(cells.values) > MIN_NUMBERS and _start_as_numbers([*map(str, cells.values)]):
        logger.warning(f"column {name} is read as categories, such as {abbreviate(cells.values[0])}: {WRITE_AS}")


def _start_as_numbers(texts: Sequence[str]) -> bool:
    return 2 * sum(map(bool, map(STARTS_AS_NUMBER.match, texts))) > len(texts)


def _describe_units(example: object) -> str:
    return f"numbers in several units, such as {abbreviate(example)}: convert them to one"


def _describe_text(cells: Cells, reason: str) -> str:
    """Return the reason for leaving out a text column, with advice if it looks like numbers or dates."""
    texts = [str(value) for value in cells.values[:: len(cells.values) // SAMPLE_SIZE + 1]]
    numbers, units = read_quantities(texts, ".")
    if np.mean(~np.isnan(numbers)) >= NUMERIC_FRACTION and len({*units}) > 1:
        return _describe_units(texts[0])
    if _start_as_numbers(texts):
        return f"text such as {abbreviate(texts[0])}: {WRITE_AS}"
    return reason


def _learn_numbers(kind: Column, numbers: Floats, targets: Targets, rows: int) -> Column | str:
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
    if kind["kind"] == "number" and are_codes(known, targets[~np.isnan(numbers)]):
        learned |= learn_target(kind["name"], *name_codes(numbers), targets)
    return learned
