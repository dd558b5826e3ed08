"""A table with a target column, whose columns are each read once."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.cells import Cells, read_cells
from kindling.data.tables.files import locate_row, read_table
from kindling.utils.text import count_noun, join_names, suggest

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


class TableFile:
    """A file with a target column; each column is read only once.

    Args:
        path: The file.
        target: Name of the target column.
        missing: Texts that mean a missing value.
        frame: Its rows, if they need not be read.

    Raises:
        ValueError: If it has no such column.
    """

    def __init__(
        self, path: str | Path, target: str, missing: Collection[str], frame: "DataFrame | None" = None
    ) -> None:
        self.path, self.target, self.missing = path, target, missing
        self.frame = read_table(path) if frame is None else frame
        self.separator: str | None = self.frame.attrs.get("separator")
        self.target_name = f"column {target} of {path}"  # for messages
        self._cells: dict[str, Cells] = {}
        if target not in self.frame:
            hint, names = suggest(target, self.frame.columns) or ".", join_names(self.frame.columns)
            raise ValueError(f"{path} has no column {target} as the target{hint} It has {names}")
        self.features = [name for name in self.frame if name != target]

    def cells(self, name: str, rows: NDArray[np.bool_] | slice = slice(None)) -> Cells:
        """Return the cells of a column, of all rows or some."""
        if name not in self._cells:
            self._cells[name] = read_cells(self.frame[name], self.missing)
        return self._cells[name].select(rows)

    def locate(self, row: int) -> str:
        """Return the number of a row for messages, with its line if it is in a CSV."""
        return locate_row(self.path, self.frame, row)

    def free_memory(self) -> None:
        """Forget the cells."""
        self._cells.clear()

    def warn_unlabelled(self, known: NDArray[np.bool_]) -> None:
        """Warn about rows without a target, given which rows have one, (N,)."""
        if number := int((~known).sum()):
            logger.warning(f"left out: {count_noun(number, 'row', 'rows')} of {self.path} without {self.target}")
