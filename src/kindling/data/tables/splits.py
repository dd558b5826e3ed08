"""Reading of the `split.csv` of a table."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kindling.data.splitting import sample_groups
from kindling.data.tables.files import read_table
from kindling.data.tables.quantities import as_number
from kindling.data.tables.split_columns import SplitColumns
from kindling.data.tables.values import Indices
from kindling.utils.text import count_noun

LEFT_OUT = "left out"  # split of rows without a target
SPLITS = ("train", "val", "test", LEFT_OUT)


def draw_splits(
    labels: Indices,
    sizes: Mapping[str, int | float],
    seed: int,
    columns: SplitColumns | None = None,
    are_classes: bool = True,
) -> NDArray[np.object_]:
    """Draw a split for each row, (N,), stratified by label; rows with label -1 are left out.

    A label is a class or a range of numbers. Groups and times in `columns` decide instead, if there are any.
    """
    splits = np.where(labels >= 0, "train", LEFT_OUT).astype(object)
    for name, size in sizes.items():
        rest = np.flatnonzero(splits == "train")
        if columns:
            splits[rest[columns.hold_out(rest, labels[rest], name, size, seed, are_classes)]] = name
            continue
        classes = dict(zip(rest.tolist(), labels[rest].tolist(), strict=True))
        splits[list(sample_groups(classes, "rows", name, size, seed))] = name
    return splits


def read_split(file: Path, path: str | Path, rows: int) -> NDArray[np.object_]:
    """Read the `split.csv` of the table at `path` and return the split of each row, (N,)."""
    table = read_table(file)
    if not {"row", "split"} <= set(table.columns) or not set(table["split"]) <= set(SPLITS):
        raise ValueError(f"{file} must have the columns row and split, with the splits {', '.join(SPLITS)}")
    numbers = table["row"].map(str).map(as_number)
    if sorted(numbers) != list(range(rows)):
        raise ValueError(
            f"{file} splits {count_noun(len(table), 'row', 'rows')}, but {path} has {rows:,}: set --data.test_path to "
            "unseen rows, or create a new split with --data.split null"
        )
    splits: NDArray[np.object_] = table["split"].to_numpy(dtype=object)[np.argsort(numbers)]
    return splits
