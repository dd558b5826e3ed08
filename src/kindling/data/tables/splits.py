"""The splits of a table: drawn, or read from its `split.csv`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kindling.data.datamodule import SPLITS
from kindling.data.folds import draw_fold
from kindling.data.split_constraints import SplitConstraints
from kindling.data.splitting import LEFT_OUT, draw_splits
from kindling.data.tables.files import read_table
from kindling.data.tables.number_parsing import as_number
from kindling.data.tables.target import Target
from kindling.utils.console import progress
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun, join_names

ROW_SPLITS = (*SPLITS, LEFT_OUT)


def make_table_splits(
    target: Target,
    constraints: SplitConstraints,
    sizes: Mapping[str, int | float],
    seed: int,
    fold: str | None = None,
    split: str | Path | None = None,
    needs_all: bool = True,
) -> NDArray[np.object_]:
    """Return the split of each row of a table, (N,).

    Args:
        target: The target column.
        constraints: Groups and times of the rows.
        sizes: Size of each split to hold out.
        seed: Seed of the draw.
        fold: For cross-validation, the fold to test on.
        split: A `split.csv` with the splits; by default they are drawn.
        needs_all: Whether each split of that file must have rows.

    Raises:
        ValueError: If the target has too few rows, or the splits are impossible.
    """
    path, known = target.table.path, target.known
    target.check([*sizes], split is not None)
    if split is None:
        are_classes = target.task == "classification"
        with progress(f"splitting {count_noun(len(known), 'row', 'rows')} of {path}"):
            if fold:
                return draw_fold(target.strata, fold, sizes["val"], seed, constraints, are_classes)
            return draw_splits(target.strata, sizes, seed, constraints, are_classes)
    splits = np.where(known, read_table_split(split, path, len(known)), LEFT_OUT).astype(object)
    absent = [name for name in ("train", *sizes) if name not in splits]
    if absent and needs_all:
        raise ValueError(f"{split} has no rows of {path} in {join_names(absent)}: add some")
    constraints.check(splits)
    return splits


def read_table_split(file: str | Path, path: str | Path, rows: int) -> NDArray[np.object_]:
    """Read the `split.csv` of the table at `path` and return the split of each row, (N,)."""
    table = read_table(file)
    if not {"row", "split"} <= set(table.columns) or not set(table["split"]) <= set(ROW_SPLITS):
        raise ValueError(f"{file} must have the columns row and split, with the splits {', '.join(ROW_SPLITS)}")
    numbers = table["row"].map(str).map(as_number)
    if sorted(numbers) != list(range(rows)):
        raise ValueError(
            f"{file} splits {count_noun(len(table), 'row', 'rows')}, but {path} has {rows:,}: set --data.test_path to "
            "unseen rows; for a new run, leave out --data.split"
        )
    splits: NDArray[np.object_] = table["split"].to_numpy(dtype=object)[np.argsort(numbers)]
    return splits


def write_table_split(file: Path, splits: NDArray[np.object_]) -> None:
    """Write the split of each row, (N,), as `split.csv`."""
    with atomic_write(file) as path:
        rows = (f"{row},{split}" for row, split in enumerate(splits))
        path.write_text("\n".join(["row,split", *rows, ""]), encoding="utf-8")
