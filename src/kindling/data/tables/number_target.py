"""A target column of numbers."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.cells import Cells
from kindling.data.tables.column_parsing import adapt_columns, as_numbers, drop_missing_words
from kindling.data.tables.leakage import find_copies
from kindling.data.tables.rows import warn_far
from kindling.data.tables.scaling import are_far, learn_scale, range_of, scale
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import Column, abbreviate, as_name, missing_option
from kindling.utils.text import count_part

logger = logging.getLogger(__name__)

MAX_STRATA = 10
STRATUM_ROWS = 20  # minimum number of rows per quantile group
MAX_TARGET = 1e15  # up to here, sums of squared errors are finite in float32
MIN_RESOLUTION = 1e-3  # relative to the standard deviation, of targets in float32
TARGET_FORMAT = ("name", "decimal", "units")  # what all members of an ensemble must share


class NumberTarget:
    """The target column of one file as numbers, read as a feature is.

    Args:
        table: The file.
        column: How the column is written in the training file, of which all rows are read to find those with a number;
            and, once learned from the training rows, the scale of its numbers.

    Attributes:
        numbers: The number of each row, NaN where missing, float32 (N,).
        known: Which rows have a number, (N,).
        strata: Groups of rows with similar numbers to represent equally in each split, -1 where missing, (N,).

    Raises:
        ValueError: If a value is not a number, or is in another unit than in training.
    """

    task: Literal["regression"] = "regression"
    noun = "target"

    def __init__(self, table: TableFile, column: Column) -> None:
        self.table, self.column = table, column
        cells = {name: table.cells(name) for name in (*table.features, table.target)}
        self._cells = cells[table.target] = cells[table.target].select(drop=column["missing_values"])
        [adapted] = adapt_columns([column], cells, table.separator, table.path)
        numbers, unparsed = as_numbers(self._cells, adapted)
        if len(unparsed) and len(unparsed := drop_missing_words(self._cells, unparsed, table.target_name)):
            raise not_a_number(table, self._cells, unparsed[0])
        if len(huge := np.flatnonzero(np.abs(numbers) > MAX_TARGET)):
            raise not_a_number(table, self._cells, huge[0], f"larger than {MAX_TARGET:g}")
        self._exact = numbers
        self.numbers = numbers.astype(np.float32)
        self.known: NDArray[np.bool_] = ~np.isnan(self.numbers)
        self.strata = number_strata(self.numbers)
        if "scale" in column:
            warn_far(self._exact, self._cells, column, table.target_name)

    def check(self, held_out: Collection[str], given: bool) -> None:
        """Check that there are different numbers, and enough for train and each of the splits in `held_out`.

        Raises:
            ValueError: If not.
        """
        numbers, what = self._exact[self.known], self.table.target_name
        self._check_different(numbers)
        if np.spacing(np.float32(np.abs(numbers).max())) > MIN_RESOLUTION * numbers.std():
            raise ValueError(
                f"{what}: numbers such as {numbers[0]:.15g} differ too little for 32 bits: subtract a constant"
            )
        if len(numbers) <= len(held_out) and not given:
            raise ValueError(f"{what} has {len(numbers)} values, and train, {' and '.join(held_out)} each need one")

    def learn(self, splits: NDArray[np.object_], held_out: Collection[str]) -> dict[str, Any]:
        """Learn the scale of the training rows, warn about far numbers, and return the state to save."""
        numbers = self._exact[splits == "train"]
        self._check_different(numbers, " in the training rows")
        self.column = self.column | learn_scale(numbers) | {"range": range_of(numbers)}
        self._warn_far_numbers()
        return {"target": self.column}

    def _check_different(self, numbers: Floats, where: str = "") -> None:
        if len(np.unique(numbers)) < 2:
            found = f"only one value ({numbers[0]:g})" if len(numbers) else "no values"
            raise ValueError(
                f"{self.table.target_name} has {found}{where}; a regression model needs at least two distinct values"
            )

    def encode(self, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the numbers of some rows, float32 (n,)."""
        return self.numbers[rows]

    def for_encoding(self, rows: NDArray[np.bool_], training: NDArray[np.bool_]) -> Floats:
        """Return values for target encodings: scaled targets of some rows, NaN for those not in `training`, (n,)."""
        return np.where(training[rows], scale(self.numbers[rows].astype(np.float64), self.column), np.nan)

    def find_leaks(self, cells: Mapping[str, Cells], columns: Sequence[Column], rows: NDArray[np.bool_]) -> list[str]:
        """Return the columns that are copies of the target, given their cells in some rows."""
        return find_copies(cells, columns, self.numbers[rows])

    def _warn_far_numbers(self) -> None:
        """Warn about numbers far from the others, which decide what a mean or a squared error is."""
        far = np.flatnonzero(are_far(self._exact, self.column))
        if not len(far):
            return
        row, number = far[0], abbreviate(self._cells.values[self._cells.codes[far[0]]])
        texts = list(dict.fromkeys(as_name(self._cells.values[code]) for code in self._cells.codes[far].tolist()))
        missing = f", skip it with {missing_option([*self.table.missing, *texts])}" if len(texts) == 1 else ""
        share = count_part(len(far), int(self.known.sum()), "numbers", "is", "are")
        logger.warning(
            f"{self.table.target_name}: {share} far from the others, such as {number} in "
            f"{self.table.locate(row)}: correct it{missing}, or limit its effect with --model.loss_function huber "
            "(and --model NAME, if the model NAME replaced a classifier)"
        )


def not_a_number(table: TableFile, cells: Cells, row: int, reason: str = "not a number") -> ValueError:
    """Return the error about the target of a row."""
    value = cells.values[cells.codes[row]]
    option = missing_option([*table.missing, as_name(value)])
    return ValueError(
        f"{table.target_name}: {table.locate(row)} holds {abbreviate(value)}, {reason}: correct it, or if it "
        f"means missing, {option}"
    )


def number_strata(numbers: NDArray[np.float32]) -> Indices:
    """Return the quantile group of each number, at most ten of similar size; -1 for NaN."""
    known = np.sort(numbers[~np.isnan(numbers)])
    groups = max(1, min(MAX_STRATA, len(known) // STRATUM_ROWS))
    bounds = known[[len(known) * group // groups for group in range(1, groups)]]
    return np.where(np.isnan(numbers), -1, np.searchsorted(bounds, numbers, side="right"))
