"""The split of a table, as its split.csv says."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.files import read_table
from kindling.data.tables.quantities import as_number
from kindling.utils.text import count_noun

LEFT_OUT = "left out"  # the split of a row without a class
SPLITS = ("train", "val", "test", LEFT_OUT)


def read_split(file: Path, path: str | Path, rows: int) -> NDArray[np.object_]:
    """Reads the split.csv of a table.

    Args:
        file: The CSV with the columns row and split.
        path: The table that it splits, for messages.
        rows: Rows of that table.

    Returns:
        The split of each row, (N,).

    Raises:
        ValueError: If it does not fit the table.
    """
    table = read_table(file)
    if not {"row", "split"} <= set(table.columns) or not set(table["split"]) <= set(SPLITS):
        raise ValueError(f"{file} must have the columns row and split, and of splits {', '.join(SPLITS)}")
    numbers = table["row"].map(str).map(as_number)
    if sorted(numbers) != list(range(rows)):
        raise ValueError(
            f"{file} splits {count_noun(len(table), 'row', 'rows')}, {path} has {rows:,}: give other rows to test "
            "with --data.test_path, or split anew with --data.split null"
        )
    splits: NDArray[np.object_] = table["split"].to_numpy(dtype=object)[np.argsort(numbers)]
    return splits
