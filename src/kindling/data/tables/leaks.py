"""Detection of target leakage: columns that alone determine the class."""

from collections.abc import Mapping, Sequence

import numpy as np

from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.values import Column, Indices


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
