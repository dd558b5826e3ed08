"""Checks of the target column, and columns that leak it."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.quantities import as_number
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import MISSING_WORD, Column, Indices, missing_option, sort_names
from kindling.utils.text import join_names

MAX_CLASSES = 1000
MAX_USUAL_CLASSES = 20  # more may be no classes


def check_classes(table: TableFile, held_out: Collection[str], given: bool) -> None:
    """Check that the target contains classes, each with a row for train and each of the splits in `held_out`.

    Raises:
        ValueError: If there is one class, too many, or one with too few rows and the splits are not given.
    """
    labels, names, what = table.labels, table.names, table.target_name
    if len(names) < 2:
        raise ValueError(
            f"{what} has {f'only one class ({names[0]})' if names else 'no values'}; a classifier needs at least two"
        )
    counts = np.bincount(labels[labels >= 0]).tolist()
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < 1 + len(held_out)]
    numbers = [as_number(name) for name in names]
    are_numbers = not any(map(math.isnan, numbers))
    is_continuous = are_numbers and any(number % 1 for number in numbers)
    if len(names) > MAX_CLASSES or (len(names) > MAX_USUAL_CLASSES and (is_continuous or 2 * len(few) > len(names))):
        if are_numbers:
            hint = "which looks like a regression target: replace the numbers by ranges, or train MLPRegressor on "
            hint += "your own subclass of BaseDataModule"
        else:
            hint = "too many for classes: choose another target, or merge values"
        raise ValueError(f"{what} has {len(names):,} distinct values, {hint}")
    if few and not given:
        raise ValueError(
            f"train, {' and '.join(held_out)} each need a row of every class, and {what} has too few of "
            f"{join_names(sort_names(few))}: remove these rows, merge classes, or split the rows with --data.split"
        )


def class_indices(labels: Indices, names: Sequence[str], classes: Sequence[str], what: str) -> Indices:
    """Return the index into `classes` of each label, an index into `names`; raise ValueError for unknown classes."""
    positions = {name: position for position, name in enumerate(classes)}
    if unknown := [names[label] for label in np.unique(labels) if names[label] not in positions]:
        raise ValueError(
            f"{what} has classes without training rows: {join_names(unknown)}; the model knows {join_names(classes)}"
        )
    return np.array([positions.get(name, -1) for name in names])[labels]


def find_oddities(table: TableFile, splits: NDArray[np.object_], held_out: Collection[str]) -> Iterator[str]:
    """Yield a warning for each oddity of the classes."""
    names = {
        split: {table.names[label] for label in np.unique(table.labels[splits == split])}
        for split in ("train", *held_out)
    }
    if words := [name for name in sort_names(names["train"]) if MISSING_WORD.fullmatch(name)]:
        option = missing_option([*table.missing, *words])
        yield f"{table.target_name} has the class {join_names(words)}: if it means missing, {option}"
    for split in held_out:
        if absent := names["train"] - names[split]:
            yield f"{split} has no rows of {join_names(sort_names(absent))}"
    spellings = Counter(name.lower() for name in names["train"])
    if alike := [name for name in sort_names(names["train"]) if spellings[name.lower()] > 1]:
        yield (
            f"{table.target_name} has classes that differ only in case: {join_names(alike)}; use one spelling for the "
            "same class"
        )


def find_leaky_columns(cells: Mapping[str, Cells], columns: Sequence[Column], labels: Indices) -> list[str]:
    """Return the columns that determine the class: each class has its own value, except in 1% of the rows."""
    classes, rows = labels.max() + 1, len(labels)
    found = []
    for name in (column["name"] for column in columns):
        if len(cells[name].values) > 2 * classes + rows / 100:
            continue
        codes, values = name_cells(Cells(cells[name].codes, [str(value).lower() for value in cells[name].values]))
        table = np.zeros((len(values) + 1, classes), dtype=np.int64)
        np.add.at(table, (codes, labels), 1)  # code -1 counts missing values in the last row
        best, same = table.argmax(axis=0), table.max(axis=0)
        others = np.maximum(table.sum(axis=0), table[best].sum(axis=1)) - same
        is_consistent = others.sum() <= max(1, rows / 100) and (others <= np.maximum(1, same / 100)).all()
        if is_consistent and len(set(best)) == classes:
            found.append(name)
    return found
