"""Reading of the `split.csv` of a table."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.files import read_table
from kindling.data.tables.quantities import as_number
from kindling.utils.text import count_noun

LEFT_OUT = "left out"  # split of rows without a class
SPLITS = ("train", "val", "test", LEFT_OUT)


def read_split(file: Path, path: str | Path, rows: int) -> NDArray[np.object_]:
    """Read the `split.csv` of a table.

    Args:
        file: A CSV with the columns row and split.
        path: Path of the table, for messages.
        rows: Number of rows of the table.

    Returns:
        The split of each row, (N,).

    Raises:
        ValueError: If it does not match the table.
    """
    table = read_table(file)
    if not {"row", "split"} <= set(table.columns) or not set(table["split"]) <= set(SPLITS):
        raise ValueError(f"{file} must have the columns row and split, with the splits {', '.join(SPLITS)}")
    numbers = table["row"].map(str).map(as_number)
    if sorted(numbers) != list(range(rows)):
        raise ValueError(
            f"{file} splits {count_noun(len(table), 'row', 'rows')}, but {path} has {rows:,}: set --data.test_path to "
            "other rows to test, or create a new split with --data.split null"
        )
    splits: NDArray[np.object_] = table["split"].to_numpy(dtype=object)[np.argsort(numbers)]
    return splits
