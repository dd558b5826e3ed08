"""Encoding of rows to predict: data frames, files or dictionaries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.columns import encode
from kindling.data.tables.files import read_table
from kindling.data.tables.values import Column
from kindling.utils.console import progress
from kindling.utils.text import count_noun


def encode_rows(
    rows: Any, columns: Sequence[Column], source: object, missing: Sequence[str] = ()
) -> NDArray[np.float32]:
    """Encode rows with the encoding learned in training.

    Args:
        rows: A data frame, the path of a table, or a list of dictionaries.
        columns: The encoding of each column.
        source: Source of the rows, for messages.
        missing: Texts that mean a missing value, besides those learned in training.

    Returns:
        Features, shape (N, F).

    Raises:
        ValueError: If columns are missing, or have other contents than in training.
    """
    import pandas as pd  # imported here because it takes 0.5 s

    if isinstance(rows, str | Path):
        frame = read_table(rows)
        with progress(f"encoding {count_noun(len(frame), 'row', 'rows')} of {source}"):
            return encode(frame, columns, source, missing=missing)
    if isinstance(rows, list):
        names = [column["name"] for column in columns if any(column["name"] in row for row in rows)]
        rows = {name: [row.get(name) for row in rows] for name in names}
    return encode(pd.DataFrame(rows), columns, source, missing=missing)
