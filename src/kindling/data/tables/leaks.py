"""Columns of a table that give the class away."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kindling.data.tables.values import Column, Indices, read_names

if TYPE_CHECKING:
    from pandas import DataFrame


def find_leaky_columns(frame: "DataFrame", columns: Sequence[Column], labels: Indices) -> list[str]:
    """Return the columns that give the class away: each class has its own value, but for 1% of the rows."""
    classes, rows = labels.max() + 1, len(labels)
    found = []
    for name in (column["name"] for column in columns):
        if frame[name].nunique() > 2 * classes + rows / 100:
            continue
        lower, values = read_names(frame[name].map(str).str.lower())
        table = np.zeros((len(values) + 1, classes), dtype=np.int64)
        np.add.at(table, (lower, labels), 1)  # the last row is that of missing values, -1
        best, same = table.argmax(axis=0), table.max(axis=0)
        others = np.maximum(table.sum(axis=0), table[best].sum(axis=1)) - same
        few = others.sum() <= max(1, rows / 100) and (others <= np.maximum(1, same / 100)).all()
        if few and len(set(best)) == classes:
            found.append(name)
    return found
