"""Which samples are held out for validation and test."""

import random
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kindling.data.tablefiles import read_table
from kindling.data.values import as_number

Group = TypeVar("Group", bound=Hashable)

LEFT_OUT = "left out"  # the split of a row without a class
SPLITS = ("train", "val", "test", LEFT_OUT)


def draw(classes: Mapping[Group, Hashable], what: str, split: str, size: int | float, seed: int) -> set[Group]:
    """Draws a share of each class, at least one of it but never the last.

    Args:
        classes: The class of each sample, or of each group of samples that stay together.
        what: What they are called in messages.
        split: What they are drawn for: val or test.
        size: How many to draw, about, or as a float, their share.
        seed: Seed of the draw.

    Raises:
        ValueError: If nothing would be drawn, or nothing be left.
    """
    share = size if isinstance(size, float) else size / max(len(classes), 1)
    if not 0 < share < 1:
        raise ValueError(f"{split}_split={size} of {len(classes):,} {what}: at least 1 must be held out and 1 left")
    by_class = defaultdict(list)
    for group, label in classes.items():
        by_class[label].append(group)
    chance, drawn = random.Random(seed), set[Group]()
    for groups in by_class.values():
        chance.shuffle(groups)
        drawn.update(groups[: min(max(1, round(share * len(groups))), len(groups) - 1)])
    if not drawn:
        raise ValueError(f"{split}_split={size}: no class has enough {what} to hold one out for {split} and leave one")
    return drawn


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
            f"{file} splits {len(table):,} rows, {path} has {rows:,}: give other rows to test with --data.test_path, "
            "or split anew with --data.split null"
        )
    splits: NDArray[np.object_] = table["split"].to_numpy(dtype=object)[np.argsort(numbers)]
    return splits
