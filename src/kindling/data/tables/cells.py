"""The cells of a table column, factorized into distinct values."""

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.dates import read_days
from kindling.data.tables.number_parsing import Units, read_quantities
from kindling.data.tables.values import are_texts, as_name, strip_text

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

    def select(self, rows: Indices | NDArray[np.bool_] | slice = slice(None), drop: Collection[str] = ()) -> "Cells":
        """Return the cells of some rows, their values in order of appearance, with the texts in `drop` as missing."""
        import pandas as pd  # imported here because it takes 0.5 s

        selected = self.codes[rows]
        absent = [as_name(value) in drop for value in self.values] if drop else [False] * len(self.values)
        present = ~np.array([*absent, True])[selected]
        codes = np.full(len(selected), -1)
        codes[present], kept = pd.factorize(selected[present])
        return Cells(codes, [self.values[code] for code in kept.tolist()], self.source or self, self.positions[kept])

    def quantities(self, decimal: str) -> tuple[Floats, Units]:
        """Return the values as numbers and units, see `read_quantities`."""
        if self.source is not None:
            numbers, units = self.source.quantities(decimal)
            return numbers[self.positions], units[self.positions]
        if decimal not in self.parsed:
            self.parsed[decimal] = read_quantities(self.values, decimal)
        parsed: tuple[Floats, Units] = self.parsed[decimal]
        return parsed

    def days(self, day_first: bool | None) -> Floats:
        """Return the values as days, see `read_days`."""
        if self.source is not None:
            return self.source.days(day_first)[self.positions]
        if day_first not in self.parsed:
            self.parsed[day_first] = read_days(self.values, day_first)
        days: Floats = self.parsed[day_first]
        return days


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
    return cells.select(drop={"", *missing}) if missing or "" in cells.values else cells


def name_cells(cells: Cells) -> tuple[Indices, list[str]]:
    """Return the index of the name of each cell, -1 where missing, (N,); and the names in order of appearance."""
    names = [*map(as_name, cells.values)]
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(index) == len(names):
        return cells.codes, names
    return np.array([*(index[name] for name in names), -1])[cells.codes], list(index)
