"""Draws the splits of a table, and reads its `split.csv`."""

import re
import warnings
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


def draw_fold(
    labels: Indices, fold: str, val_size: int | float, seed: int, columns: SplitColumns, are_classes: bool
) -> NDArray[np.object_]:
    """Return the split of each row, (N,), if one fold is for testing; validation rows are drawn from the others.

    Args:
        labels: As for `draw_splits`.
        fold: Which fold, from 1, of how many: "1/5".
        val_size: Size of the validation split, as for `draw_splits`.
        seed: Seed of the folds and of the validation split.
        columns: Groups, which stay together; times can't be split into folds.
        are_classes: Whether labels are classes.

    Raises:
        ValueError: If there are no such folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes half a second to import

    number, count = parse_fold(fold)
    if columns and columns.time:
        raise ValueError(f"--data.fold {fold} would test on rows older than training rows: leave out --data.time")
    rows = np.flatnonzero(labels >= 0)
    groups = columns.codes[rows] if columns else None
    distinct = len(rows if groups is None else np.unique(groups))
    if distinct < count:
        raise ValueError(
            f"{count} folds need at least {count} {'rows' if groups is None else 'groups'}, got {distinct}"
        )
    strata = labels[rows]
    if (most := np.bincount(strata).max()) < count:
        if are_classes:
            raise ValueError(f"{count} folds need a class with at least {count} rows, but the largest has {most}")
        strata = np.zeros_like(strata)  # ranges of numbers are too small
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # then it is missing in some folds
        tested = rows[[*splitter.split(rows, strata, groups)][number - 1][1]]
    rest = labels.copy()
    rest[tested] = -1
    if are_classes and len(missing := np.setdiff1d(labels[tested], rest)):
        row = int(tested[labels[tested] == missing[0]][0])
        raise ValueError(
            f"--data.fold {fold} tests on all rows of the class of row {row} (counted from 0), so that none is left to "
            f"train on: use fewer folds{' or other groups' if columns else ''}"
        )
    splits = draw_splits(rest, {"val": val_size}, seed, columns, are_classes)
    splits[tested] = "test"
    return splits


def parse_fold(fold: str) -> tuple[int, int]:
    """Return the number of a fold and how many there are.

    Raises:
        ValueError: If the text is not such as 1/5.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", fold)
    if not found or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise ValueError(f"`fold` must be a fold and the number of folds, such as 1/5, got {fold}")
    return int(found[1]), int(found[2])


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
