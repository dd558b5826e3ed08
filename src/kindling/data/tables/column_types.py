"""Detection of numeric and date columns and of their format in the training file."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats
from kindling.data.tables.cells import Cells
from kindling.data.tables.column_parsing import as_numbers, read_values
from kindling.data.tables.dates import as_days, field_order, is_year_first, read_days
from kindling.data.tables.file_style import SAMPLE_SIZE, FileStyle, texts_of
from kindling.data.tables.number_parsing import DECIMALS, EXPONENT, as_number, decimal_evidence, read_quantities
from kindling.data.tables.scaling import range_of
from kindling.data.tables.units import find_units, warn_mixed_units
from kindling.data.tables.values import MISSING_WORD, Column, abbreviate, as_name
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

NUMERIC_FRACTION = 0.95  # minimum fraction of numbers in a numeric column
MAX_MARKERS = 3  # distinct texts among numbers that may mean missing
MIN_NUMBERS = 20  # distinct numbers; with fewer, other texts may be categories


def learn_kind(name: str, cells: Cells, style: FileStyle, missing: Sequence[str]) -> tuple[Column, Floats] | None:
    """Infer from the training rows whether a column contains numbers or dates.

    Returns:
        The format of the column with the range of its values; and its values, float64 (N,), NaN where missing. None
        if it contains neither numbers nor dates.
    """
    for learn in (_learn_date, _learn_number) if _is_compact(cells) else (_learn_number, _learn_date):
        if found := _read_as(learn(name, cells, style), cells, style, missing):
            return found
    return None


def learn_number(name: str, cells: Cells, style: FileStyle, missing: Sequence[str]) -> tuple[Column, Floats] | None:
    """Infer the format of a column of numbers, see `learn_kind`; None if it is not one."""
    return _read_as(_learn_number(name, cells, style), cells, style, missing)


def _read_as(
    column: Column | None, cells: Cells, style: FileStyle, missing: Sequence[str]
) -> tuple[Column, Floats] | None:
    """Complete the format of a column, and read its values; None if too many are neither values nor missing."""
    if column is None:
        return None
    markers = _find_markers(cells, ~np.isnan(read_values(cells, column, strict=True)))
    if markers is None:
        return None
    _warn_assumptions(column, cells, markers, style)
    column["missing_values"] = sorted({*missing, *markers})
    numbers, _ = as_numbers(cells, column)
    return column if np.isnan(numbers).all() else column | {"range": range_of(numbers)}, numbers


def warn_ambiguous(columns: Sequence[Column], cells: Mapping[str, Cells], style: FileStyle) -> None:
    """Warn about numbers such as 1,234 if nothing in the file tells a decimal sign from a thousands separator.

    Points are assumed to be decimal signs without a warning, except in files separated by semicolons.
    """
    numbers = {column["name"]: column["decimal"] for column in columns if column["kind"] == "number"}
    unclear: dict[str, str] = {}
    for name in numbers.keys() & style.ambiguous if style.decimal is None else ():
        text = next(text for text in texts_of(cells[name]) if decimal_evidence(text) == "?")
        if style.decimals[name] is None and (style.separated == "," or numbers[name] not in text):
            unclear[name] = text
    for decimal in DECIMALS:
        if names := [name for name in numbers if name in unclear and numbers[name] == decimal]:
            text, other = unclear[names[0]], DECIMALS[decimal]
            read, instead = (f"{as_number(text, sign):.7g}" for sign in (decimal, other))
            what = f"{'column' if len(names) == 1 else 'columns'} {join_names(names, 3)}"
            logger.warning(f"{what}: {text} is read as {read}; if it is {instead}, add --data.decimal '{other}'")


def _is_compact(cells: Cells) -> bool:
    """Return whether all values are dates such as 20240314, with or without a time."""
    names = map(as_name, cells.values)
    return len(cells.values) > 2 and all(
        len(name) in (8, 12, 14) and name.isdigit() and name[:2] in ("19", "20") and as_days(name, False) > 0
        for name in names
    )


def _learn_number(name: str, cells: Cells, style: FileStyle) -> Column | None:
    if _is_other_kind(cells, lambda values: read_quantities(values, ".")[0]):  # a number for neither decimal sign
        return None
    decimal = style.decimal_of(name) or _decimal_from_grouping(cells) or style.separated or "."
    units = find_units(*cells.quantities(decimal), cells.counts)
    return {"name": name, "kind": "number", "decimal": decimal, "units": units}


def _learn_date(name: str, cells: Cells, style: FileStyle) -> Column | None:
    day_first = style.day_first(name)
    if day_first is None:
        day_first = style.decimal == ","  # the day comes first in countries that write 1,5
    if is_year_first(texts_of(cells)):
        day_first = None
    if _is_other_kind(cells, lambda values: read_days(values, day_first)):
        return None
    return {"name": name, "kind": "date", "day_first": day_first}


def _is_other_kind(cells: Cells, read: Callable[[Sequence[Any]], Floats]) -> bool:
    """Return whether the first values rule out a kind of column, so that long text columns are not parsed whole."""
    if not np.isnan(read(cells.values[:MIN_NUMBERS])).all():
        return False
    rows = cells.counts.cumsum()
    first = int(np.searchsorted(rows, 2 * (1 - NUMERIC_FRACTION) * len(cells.codes))) + MIN_NUMBERS
    unparsed = np.isnan(read(cells.values[:first]))
    for position in np.flatnonzero(unparsed).tolist():
        unparsed[position] = not MISSING_WORD.fullmatch(as_name(cells.values[position]))
    return bool(
        unparsed.sum() > MAX_MARKERS
        and cells.counts[:first][unparsed].sum() > (1 - NUMERIC_FRACTION) * cells.counts.sum()
    )


def _decimal_from_grouping(cells: Cells) -> str | None:
    """Return the decimal sign if 1.234 or 1,234 must be grouped, as only numbers below 1000 have no sign."""
    texts = texts_of(cells)
    signed = [text for text in texts if decimal_evidence(text) == "?"]
    bare = [text for text in texts if text.isdigit()]
    if len(signed) < 3 or not bare or max(map(len, bare)) > 3 or len(signed) + len(bare) < len(texts):
        return None
    return "," if "." in signed[0] else "."


def _find_markers(cells: Cells, known: NDArray[np.bool_]) -> list[str] | None:
    """Return the texts among numbers that mean missing; None if the column is not numeric."""
    counts = cells.counts
    others = {as_name(cells.values[position]): int(counts[position]) for position in np.flatnonzero(~known).tolist()}
    words = [text for text in others if MISSING_WORD.fullmatch(text)]
    numbers, unparsed = counts[known].sum(), sum(others.values()) - sum(others[word] for word in words)
    if numbers >= NUMERIC_FRACTION * (numbers + unparsed) and (numbers or not others):
        return words
    if len(others) <= MAX_MARKERS and known.sum() > MIN_NUMBERS and 2 * numbers >= counts.sum():
        return [text for text in others if not EXPONENT.fullmatch(text)]
    return None


def _warn_assumptions(column: Column, cells: Cells, markers: Sequence[str], style: FileStyle) -> None:
    """Warn about the assumptions made to read a column."""
    name = column["name"]
    if markers:
        rows = dict(zip(map(as_name, cells.values), cells.counts.tolist(), strict=True))
        texts = join_names([f"{abbreviate(text)} ({rows[text]:,})" for text in markers], 5)
        logger.warning(f"column {name}: these values of the training rows are treated as missing: {texts}")
    if column["kind"] == "number":
        warn_mixed_units(column, cells)
    elif (years := is_year_first(texts_of(cells))) is not None:
        date, order = texts_of(cells)[0], "year" if years else "day" if column["day_first"] else "month"
        logger.warning(f"column {name}: {date} is read with the {order} first; write years with four digits to be sure")
    elif style.day_first(name) is None:
        dates, order = texts_of(cells), "day" if column["day_first"] else "month"
        unclear = (text for text in dates[:: len(dates) // SAMPLE_SIZE + 1] if field_order(text) == "?")
        if example := next(unclear, None):
            logger.warning(
                f"column {name}: {example} is read with the {order} first; write dates as 2024-12-31 to be sure"
            )
