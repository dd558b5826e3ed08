"""The columns of a table that constrain its splits: groups of rows to keep together, and the time of each row."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats, Indices
from kindling.data.split_constraints import SplitConstraints, SplitValues
from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.column_parsing import adapt_columns, as_numbers
from kindling.data.tables.column_types import learn_kind
from kindling.data.tables.file_style import read_style
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import Column, abbreviate
from kindling.utils.text import suggest


def read_constraints(
    table: TableFile,
    groups: str | None,
    time: str | None,
    known: NDArray[np.bool_],
    training: TableFile | None = None,
) -> SplitConstraints:
    """Read the group and the time of each row.

    Args:
        table: The file.
        groups: Name of the group column; None if there is none.
        time: Name of the column of dates, times or numbers; None if there is none.
        known: Which rows have a target and so belong to a split, (N,).
        training: The training file, if this is another one: times are read in the same format.

    Raises:
        ValueError: If there is no such column, or a row with a target has no group or time.
    """
    read_groups = read_times = None
    if groups is not None:
        codes, names = name_cells(_read(table, "groups", groups, known))
        read_groups = _values("groups", groups, table, np.where(known, codes, -1), names)
    if time is not None:
        cells = _read(table, "time", time, known)
        times = np.where(known, _read_times(table, time, known, training), np.nan)
        read_times = _values("time", time, table, np.where(known, cells.codes, -1), cells.values, times)
    return SplitConstraints(read_groups, read_times, path=table.path)


def check_names(path: str | Path, features: Collection[str], targets: Collection[str], **options: str | None) -> None:
    """Raise ValueError if a column that an option names is a target, or does not exist."""
    for option, name in options.items():
        if name in targets:
            raise ValueError(f"`{option}`: {name} is the target: choose another column")
        if name is not None and name not in features:
            raise ValueError(f"`{option}`: {path} has no column {name}{suggest(name, features)}")


def _values(
    option: str, name: str, table: TableFile, codes: Indices, values: Sequence[object], numbers: Floats | None = None
) -> SplitValues:
    texts = [*map(abbreviate, values)]
    return SplitValues(f"--data.{option} {name}", f"column {name} of {table.path}", codes, texts, numbers)


def _read(table: TableFile, option: str, name: str, known: NDArray[np.bool_]) -> Cells:
    """Return the cells of a column, after checking that it exists and is complete."""
    check_names(table.path, table.features, [table.target], **{option: name})
    cells = table.cells(name)
    _check_complete(table, option, name, known & (cells.codes < 0))
    return cells


def _check_complete(
    table: TableFile, option: str, name: str, missing: NDArray[np.bool_], reason: str = "is empty"
) -> None:
    rows = np.flatnonzero(missing)
    if len(rows):
        more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        raise ValueError(
            f"column {name} of {table.path}: {table.locate(rows[0])} {reason}{more}: fill it in, or remove the "
            f"rows, as --data.{option} needs a value in each"
        )


def _learn_times(table: TableFile, name: str) -> tuple[Column, Floats]:
    """Return how a column of times is written, and the time of each row as days or a number, NaN if missing, (N,)."""
    cells = {each: table.cells(each) for each in table.frame}
    found = learn_kind(name, cells[name], read_style(cells, table.separator), [*table.missing])
    if found is None:
        raise ValueError(
            f"column {name} of {table.path} holds no dates, times or numbers, such as "
            f"{abbreviate(cells[name].values[0])}: --data.time needs values such as 2024-12-31 23:59"
        )
    return found


def _read_times(table: TableFile, name: str, known: NDArray[np.bool_], training: TableFile | None) -> Floats:
    """Return the time of each row (see `_learn_times`), parsed with the format of the training file if one is given."""
    cells = table.cells(name)
    column, times = _learn_times(training or table, name)
    if training is not None:
        every = {each: table.cells(each) for each in table.frame}
        [column] = adapt_columns([column], every, table.separator, table.path)
        times, _ = as_numbers(cells.select(drop=column["missing_values"]), column)
    unread = np.isnan(times) & known
    if unread.any():
        value = abbreviate(cells.values[cells.codes[unread.argmax()]])
        _check_complete(table, "time", name, unread, f"holds {value}, not a {column['kind']}")
    return times
