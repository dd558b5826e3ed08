"""Columns that leak the target: each alone determines it."""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.column_parsing import as_numbers
from kindling.data.tables.values import Column
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

TOLERANCE = 0.01  # maximum fraction of rows that contradict a leak
MIN_ROWS = 20  # fewer numbers may be in the same order by chance


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


def find_copies(cells: Mapping[str, Cells], columns: Sequence[Column], targets: Floats) -> list[str]:
    """Return the columns of numbers or dates in the order of the target, or in the opposite one, in 99% of the rows.

    Such a column is a copy of the target, in another unit perhaps, or rounded.

    Args:
        cells: The columns of the training rows.
        columns: The encoding of each column.
        targets: The target of each training row, (N,).
    """
    from scipy.stats import rankdata  # imported here because it takes 1 s

    found = []
    for column in columns:
        if column["kind"] == "category":
            continue
        numbers, _ = as_numbers(cells[column["name"]].select(drop=column["missing_values"]), column)
        known = ~np.isnan(numbers)
        if known.sum() >= max(MIN_ROWS, (1 - TOLERANCE) * len(targets)):
            middle = (known.sum() + 1) / 2
            ranks, others = rankdata(numbers[known]) - middle, rankdata(targets[known]) - middle
            tolerance = max(0.5, TOLERANCE * len(ranks))
            if any((np.abs(ranks - sign * others) > tolerance).mean() <= TOLERANCE for sign in (1, -1)):
                found.append(column["name"])
    return found


def warn_leaks(leaky: Sequence[str], noun: str, drop: Sequence[str]) -> None:
    """Warn about columns that determine the target.

    Args:
        leaky: Their names; none for no warning.
        noun: What the target is: class or target.
        drop: Names of columns that are left out already.
    """
    if leaky:
        option = shlex.quote(json.dumps([*drop, *leaky], ensure_ascii=False))
        verb, pronoun = ("alone determines", "it") if len(leaky) == 1 else ("each determine", "them")
        logger.warning(
            f"possible target leakage: {join_names(leaky)} {verb} the {noun}; to leave {pronoun} out, "
            f"--data.drop {option}"
        )
