"""Which columns of a table hold numbers or dates, and how another file writes the same columns.

A decimal sign is a property of a file, not of a model: one trained on `1.5` reads `1,5` too. It is decided anew for
every file from, in this order, the column's own numbers, those of the other columns, the range of the training values,
the separator of the fields, and what the training file had. So is the order of day and month.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.cells import Cells
from kindling.data.tables.dates import as_days, field_order, read_days, short_years
from kindling.data.tables.file_style import SAMPLED, FileStyle, read_style, texts_of
from kindling.data.tables.quantities import DECIMALS, LARGEST, as_number, decimal_evidence, read_quantities
from kindling.data.tables.ranges import CLEARLY, misfit, range_of
from kindling.data.tables.units import adapt_units, convert, find_units, tell_units
from kindling.data.tables.values import LEGACY_MISSING, MISSING_WORD, Column, Floats, Indices, as_name, in_brief
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

NUMERIC_SHARE = 0.95  # of the values must be numbers for a column of numbers
MOST_MARKERS = 3  # different texts among numbers that may stand for missing values
MANY_NUMBERS = 20  # with fewer different ones, any other text may be a category


def learn_kind(name: str, cells: Cells, style: FileStyle, missing: Sequence[str]) -> tuple[Column, Floats] | None:
    """Find out whether a column holds numbers or dates.

    Args:
        name: Name of the column.
        cells: Its training rows.
        style: How the file writes numbers and dates.
        missing: Texts that stand for missing values.

    Returns:
        How the column is read, with the range of its values; and its values, float64 (N,), NaN where missing. None
        if it holds neither numbers nor dates.
    """
    for learn in (
        (_learn_date, _learn_number) if _is_compact(cells) or not _has_numbers(cells) else (_learn_number, _learn_date)
    ):
        found = learn(name, cells, style)
        if found is None:
            continue
        column, numbers = found
        known = ~np.isnan(numbers)
        markers = _find_markers(cells, known)
        if markers is None:
            continue
        _tell_learned(column, cells, markers, style)
        read = np.append(numbers, np.nan)[cells.codes]
        spread = {"range": range_of(read)} if known.any() else {}
        return column | {"missing_values": sorted({*missing, *markers})} | spread, read
    return None


def tell_ambiguous(columns: Sequence[Column], cells: Mapping[str, Cells], style: FileStyle) -> None:
    """Say how numbers such as 1,234 are read where nothing in the file tells their decimal sign from grouped digits.

    Points are decimal signs without a word, but for files separated by semicolons, where commas usually are.
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


def _has_numbers(cells: Cells) -> bool:
    """Whether any value of a sample of the rows is a number."""
    codes = np.unique(cells.codes[cells.codes >= 0][:: len(cells.codes) // SAMPLED + 1])
    return not np.isnan(read_quantities([cells.values[code] for code in codes.tolist()], ".")[0]).all()


def _is_compact(cells: Cells) -> bool:
    """Whether all values are dates such as 20240314, with or without a time; not just any numbers of 8 digits."""
    names = map(as_name, cells.values)
    return len(cells.values) > 2 and all(
        len(name) in (8, 12, 14) and name.isdigit() and name[:2] in ("19", "20") and as_days(name, False) > 0
        for name in names
    )


def _learn_number(name: str, cells: Cells, style: FileStyle) -> tuple[Column, Floats] | None:
    if _are_others(cells, lambda values: read_quantities(values, ".")[0]):  # no number in either decimal sign
        return None
    decimal = style.decimal_of(name) or _grouping(cells) or style.separated or "."
    numbers, units = cells.quantities(decimal)
    column = {"name": name, "kind": "number", "decimal": decimal, "units": find_units(numbers, units, cells.counts)}
    return column, convert(numbers, units, column)


def _learn_date(name: str, cells: Cells, style: FileStyle) -> tuple[Column, Floats] | None:
    day_first = style.day_first(name)
    if day_first is None:
        day_first = style.decimal == ","  # where people write 1,5 the day comes first
    if short_years(texts_of(cells)):
        day_first = None
    if _are_others(cells, lambda values: read_days(values, day_first)):
        return None
    return {"name": name, "kind": "date", "day_first": day_first}, cells.days(day_first)


def _are_others(cells: Cells, read: Callable[[Sequence[Any]], Floats]) -> bool:
    """Whether the first values alone rule out a column of numbers: a long text column is not parsed to its end."""
    if not np.isnan(read(cells.values[:MANY_NUMBERS])).all():
        return False
    rows = cells.counts.cumsum()
    first = int(np.searchsorted(rows, 2 * (1 - NUMERIC_SHARE) * len(cells.codes))) + MANY_NUMBERS
    strays = np.isnan(read(cells.values[:first]))
    for place in np.flatnonzero(strays).tolist():
        strays[place] = not MISSING_WORD.fullmatch(as_name(cells.values[place]))
    return bool(
        strays.sum() > MOST_MARKERS and cells.counts[:first][strays].sum() > (1 - NUMERIC_SHARE) * cells.counts.sum()
    )


def _grouping(cells: Cells) -> str | None:
    """Return the decimal sign where 1.234 or 1,234 must be grouped: only numbers below 1000 have neither sign."""
    texts = texts_of(cells)
    signed = [text for text in texts if decimal_evidence(text) == "?"]
    bare = [text for text in texts if text.isdigit()]
    if len(signed) < 3 or not bare or max(map(len, bare)) > 3 or len(signed) + len(bare) < len(texts):
        return None
    return "," if "." in signed[0] else "."


def _find_markers(cells: Cells, known: NDArray[np.bool_]) -> list[str] | None:
    """Return the texts among numbers that stand for missing values; None if the column does not hold numbers."""
    counts = cells.counts
    others = {as_name(cells.values[place]): int(counts[place]) for place in np.flatnonzero(~known).tolist()}
    words = [text for text in others if MISSING_WORD.fullmatch(text)]
    numbers, strays = counts[known].sum(), sum(others.values()) - sum(others[word] for word in words)
    if numbers >= NUMERIC_SHARE * (numbers + strays) and (numbers or not others):
        return words
    if len(others) <= MOST_MARKERS and known.sum() > MANY_NUMBERS and 2 * numbers >= counts.sum():
        return list(others)
    return None


def _tell_learned(column: Column, cells: Cells, markers: Sequence[str], style: FileStyle) -> None:
    """Say what had to be assumed to read a column."""
    name = column["name"]
    if markers:
        rows = dict(zip(map(as_name, cells.values), cells.counts.tolist(), strict=True))
        texts = join_names([f"{in_brief(text)} ({rows[text]:,})" for text in markers], 5)
        logger.warning(f"column {name}: these values of the training rows count as missing: {texts}")
    if column["kind"] == "number":
        tell_units(column, cells)
    elif (years := short_years(texts_of(cells))) is not None:
        date, order = texts_of(cells)[0], "year" if years else "day" if column["day_first"] else "month"
        logger.warning(f"column {name}: {date} is read with the {order} first; write years with four digits to be sure")
    elif style.day_first(name) is None:
        dates, order = texts_of(cells), "day" if column["day_first"] else "month"
        unclear = (text for text in dates[:: len(dates) // SAMPLED + 1] if field_order(text) == "?")
        if example := next(unclear, None):
            logger.warning(
                f"column {name}: {example} is read with the {order} first; write dates as 2024-12-31 to be sure"
            )


def as_numbers(cells: Cells, column: Column) -> tuple[Floats, Indices]:
    """Read numbers or dates.

    Args:
        cells: The cells.
        column: How they are read: what `learn_kind` returned, or `adapt_columns` made of it for this file.

    Returns:
        The numbers, float64 (N,), NaN where there is none; and the rows of what is given but no number.
    """
    numbers = np.append(read_values(cells, column), np.nan)[cells.codes]
    return numbers, np.flatnonzero(np.isnan(numbers) & (cells.codes >= 0))


def drop_missing_words(cells: Cells, strays: Indices, what: str) -> Indices:
    """Return the strays but for words such as NA, which say that a number or date is missing; say which these are."""
    words = [isinstance(value, str) and MISSING_WORD.fullmatch(value) is not None for value in cells.values]
    rows = np.array([*words, False])[cells.codes[strays]]
    if rows.any():
        found = dict.fromkeys(in_brief(cells.values[code]) for code in cells.codes[strays[rows]].tolist())
        number = count_noun(int(rows.sum()), "value counts", "values count")
        logger.warning(f"{what}: {number} as missing: {join_names([*found], 5)}")
    kept: Indices = strays[~rows]
    return kept


def read_values(cells: Cells, column: Column) -> Floats:
    """Read the distinct values as the numbers or days that a column holds; NaN where one is none."""
    if column["kind"] == "date":
        return cells.days(column["day_first"])
    numbers = convert(*cells.quantities(column["decimal"]), column)
    return numbers if "missing_values" in column else _read_as_before(cells.values, numbers, column["decimal"])


def _read_as_before(values: Sequence[Any], numbers: Floats, decimal: str) -> Floats:
    """Read what is no number by the syntax of Python, such as 1e5 and 1_000, as older checkpoints were trained."""
    read = numbers.copy()
    for place in np.flatnonzero(np.isnan(numbers)).tolist() if decimal == "." else ():
        with suppress(ValueError, TypeError, OverflowError):
            read[place] = float(values[place])
    return np.where(np.isfinite(read), np.clip(read, -LARGEST, LARGEST), np.nan)


def missing_values(column: Column) -> frozenset[str]:
    """Return the texts that stand for missing values in a column."""
    return frozenset(column["missing_values"]) if "missing_values" in column else LEGACY_MISSING


def adapt_columns(
    columns: Sequence[Column], cells: Mapping[str, Cells], separator: str | None, file: object
) -> list[Column]:
    """Change how columns are read to how a file writes them.

    Args:
        columns: What was learned of each column.
        cells: The cells of these columns in the file.
        separator: Separator of the fields; None where it is no CSV.
        file: Where the rows come from, for messages.

    Raises:
        ValueError: If numbers are in another unit than in training.
    """
    style = read_style(cells, separator)
    return [_adapt(column, cells[column["name"]], style, f"column {column['name']} of {file}") for column in columns]


def _adapt(column: Column, cells: Cells, style: FileStyle, what: str) -> Column:
    if column["kind"] == "date":
        day_first = style.day_first(column["name"])
        if short_years(texts_of(cells)):
            return column | {"day_first": None}
        return column if day_first is None or column["day_first"] is None else column | {"day_first": day_first}
    if column["kind"] == "number":
        column = column | {"decimal": _decimal_here(column, cells, style)}
        return column | {"factors": adapt_units(column, cells, what)}
    return column


def _decimal_here(column: Column, cells: Cells, style: FileStyle) -> str:
    """Decide which decimal sign the numbers of a column have in a file."""
    name, learned = column["name"], str(column["decimal"])
    if told := style.decimal_of(name):
        return told
    if name not in style.ambiguous:
        return learned
    values = [text for text in texts_of(cells) if decimal_evidence(text) == "?"]
    unclear = Cells(np.arange(len(values)), values)
    point, comma = (misfit(read_values(unclear, column | {"decimal": decimal}), column) for decimal in (".", ","))
    if abs(point - comma) > CLEARLY:
        return "." if point < comma else ","
    return style.separated or learned
