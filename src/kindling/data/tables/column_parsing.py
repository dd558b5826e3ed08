"""Reading of the numbers and dates of a column in any file, with the format of that file.

The decimal sign is a property of a file, not of a model: a model trained on `1.5` also reads `1,5`. It is inferred for
every file from, in this order, the numbers of the column, those of the other columns, the range of the training values,
the field separator, and the training file. The order of day and month is inferred in the same way.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.cells import Cells
from kindling.data.tables.dates import is_year_first
from kindling.data.tables.file_style import FileStyle, read_style, texts_of
from kindling.data.tables.number_parsing import EXPONENT, decimal_evidence, limited
from kindling.data.tables.scaling import MISFIT_MARGIN, misfit
from kindling.data.tables.units import adapt_units, convert
from kindling.data.tables.values import MISSING_WORD, Column, abbreviate
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)


def as_numbers(cells: Cells, column: Column) -> tuple[Floats, Indices]:
    """Return numbers or days, (N,), NaN where there is none; and the rows with other values."""
    numbers = np.append(read_values(cells, column), np.nan)[cells.codes]
    return numbers, np.flatnonzero(np.isnan(numbers) & (cells.codes >= 0))


def drop_missing_words(cells: Cells, unparsed: Indices, what: str) -> Indices:
    """Return the unparsed rows without words such as NA, which mean missing, and warn about these."""
    words = [isinstance(value, str) and MISSING_WORD.fullmatch(value) is not None for value in cells.values]
    rows = np.array([*words, False])[cells.codes[unparsed]]
    if rows.any():
        found = dict.fromkeys(abbreviate(cells.values[code]) for code in cells.codes[unparsed[rows]].tolist())
        number = count_noun(int(rows.sum()), "value is", "values are")
        logger.warning(f"{what}: {number} treated as missing: {join_names([*found], 5)}")
    kept: Indices = unparsed[~rows]
    return kept


def read_values(cells: Cells, column: Column, strict: bool = False) -> Floats:
    """Return the distinct values as numbers or days, NaN where they are neither.

    Numbers such as 1e5 are NaN if `strict`, as they may be codes.
    """
    if column["kind"] == "date":
        return cells.days(column["day_first"])
    numbers, units = cells.quantities(column["decimal"])
    if not strict:
        numbers = numbers.copy()
        for position in np.flatnonzero(np.isnan(numbers)).tolist():
            if EXPONENT.fullmatch(str(cells.values[position])):
                numbers[position] = limited([float(cells.values[position])])[0]
    return convert(numbers, units, column)


def adapt_columns(
    columns: Sequence[Column], cells: Mapping[str, Cells], separator: str | None, file: object
) -> list[Column]:
    """Return the columns with the formats of another file, `separator` included; other units raise ValueError."""
    style = read_style(cells, separator)
    return [_adapt(column, cells[column["name"]], style, f"column {column['name']} of {file}") for column in columns]


def _adapt(column: Column, cells: Cells, style: FileStyle, what: str) -> Column:
    if column["kind"] == "date":
        day_first = style.day_first(column["name"])
        if is_year_first(texts_of(cells)):
            return column | {"day_first": None}
        return column if day_first is None or column["day_first"] is None else column | {"day_first": day_first}
    if column["kind"] == "number":
        column = column | {"decimal": _decimal_here(column, cells, style)}
        return column | {"factors": adapt_units(column, cells, what)}
    return column


def _decimal_here(column: Column, cells: Cells, style: FileStyle) -> str:
    """Return the decimal sign of the numbers of a column in a file."""
    name, learned = column["name"], str(column["decimal"])
    if decimal := style.decimal_of(name):
        return decimal
    if name not in style.ambiguous:
        return learned
    values = [text for text in texts_of(cells) if decimal_evidence(text) == "?"]
    unclear = Cells(np.arange(len(values)), values)
    point, comma = (misfit(read_values(unclear, column | {"decimal": decimal}), column) for decimal in (".", ","))
    if abs(point - comma) > MISFIT_MARGIN:
        return "." if point < comma else ","
    return style.separated or learned
