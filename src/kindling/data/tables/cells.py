"""The cells of a table column, factorized into distinct values."""

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.dates import read_days
from kindling.data.tables.quantities import read_quantities
from kindling.data.tables.values import Floats, Indices, are_texts, as_name, strip_text

if TYPE_CHECKING:
    from pandas import Series


class Cells:
    """The cells of a column as distinct values, each parsed only once whichever rows are selected.

    Args:
        codes: Index into `values` for each row, -1 where the cell is missing, shape (N,).
        values: Distinct values: texts without surrounding spaces, or typed values such as floats.
        source: The cells that these were selected from, if any.
        positions: Index of each value into the values of `source`.
    """

    def __init__(
        self, codes: Indices, values: list[Any], source: "Cells | None" = None, positions: Indices | None = None
    ) -> None:
        self.codes = codes
        self.values = values
        self.source = source
        self.positions = np.arange(len(values)) if positions is None else positions
        self.parsed: dict[Any, Any] = {}

    @cached_property
    def counts(self) -> Indices:
        """Number of rows that hold each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def select(self, rows: Indices | NDArray[np.bool_]) -> "Cells":
        """Return the cells of some rows, with their values in order of appearance."""
        import pandas as pd  # imported here because it takes 0.5 s

        codes, values = pd.factorize(self.codes[rows])
        return _mark_missing(self, codes, values, values < 0)

    def drop(self, texts: Collection[str]) -> "Cells":
        """Return the cells with some texts marked as missing."""
        if not texts:
            return self
        absent = np.array([as_name(value) in texts for value in self.values], dtype=bool)
        return _mark_missing(self, self.codes, np.arange(len(absent)), absent) if absent.any() else self

    def quantities(self, decimal: str) -> tuple[Floats, NDArray[np.object_]]:
        """Return the values as numbers and units, see `read_quantities`."""
        if self.source is not None:
            numbers, units = self.source.quantities(decimal)
            return numbers[self.positions], units[self.positions]
        if decimal not in self.parsed:
            numbers, found = read_quantities(self.values, decimal)
            self.parsed[decimal] = numbers, np.array(found, dtype=object)
        parsed: tuple[Floats, NDArray[np.object_]] = self.parsed[decimal]
        return parsed

    def days(self, day_first: bool | None) -> Floats:
        """Return the values as days, see `read_days`."""
        if self.source is not None:
            return self.source.days(day_first)[self.positions]
        if day_first not in self.parsed:
            self.parsed[day_first] = read_days(self.values, day_first)
        days: Floats = self.parsed[day_first]
        return days


def _mark_missing(cells: Cells, codes: Indices, positions: Indices, absent: NDArray[np.bool_]) -> Cells:
    """Return cells with some values marked as missing.

    Args:
        cells: The cells that the values come from.
        codes: Index into `positions` for each row, -1 where missing.
        positions: Indices into the values of `cells`.
        absent: Whether each of `positions` is missing.
    """
    if absent.any():
        codes = np.append(np.where(absent, -1, np.cumsum(~absent) - 1), -1)[codes]
        positions = positions[~absent]
    values = [cells.values[position] for position in positions.tolist()]
    return Cells(codes, values, cells.source or cells, cells.positions[positions])


def read_cells(column: "Series", missing: Collection[str] = ()) -> Cells:
    """Read a column; a cell is missing where it is empty or one of the texts in `missing`."""
    codes, uniques = column.factorize()
    values = uniques.tolist()
    strip = str.strip if are_texts(values) else strip_text  # much faster for millions of texts
    values = [*map(strip, values)]
    if len({*values}) < len(values):  # "red" and "red " are one value
        merged = {value: position for position, value in enumerate(dict.fromkeys(values))}
        codes = np.append([merged[value] for value in values], -1)[codes]
        values = [*merged]
    cells = Cells(codes, values)
    return cells.drop({"", *missing}) if missing or "" in cells.values else cells


def read_names(column: "Series", missing: Collection[str] = ()) -> tuple[Indices, list[str]]:
    """Read a column as category names.

    Returns:
        Index into the names for each row, -1 where missing, shape (N,); and the distinct names in order of appearance.
    """
    return name_cells(read_cells(column, missing))


def name_cells(cells: Cells) -> tuple[Indices, list[str]]:
    """Return the cells as category names, see `read_names`."""
    names = [*map(as_name, cells.values)]
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(index) == len(names):
        return cells.codes, names
    return np.array([*(index[name] for name in names), -1])[cells.codes], list(index)
