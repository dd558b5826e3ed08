"""Rows as typed values, as exported files take them: numbers, names of categories, and dates in ISO format.

Whatever depends on how a file is written, such as units, decimal commas or the order of day and month, has been read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats
from kindling.data.tables.categories import check_unseen
from kindling.data.tables.cells import name_cells
from kindling.data.tables.dates import DAY
from kindling.data.tables.rows import (
    as_frame,
    distinct_columns,
    encode_rows,
    frame_cells,
    match_cells,
    read_numbers,
)
from kindling.data.tables.values import Column

TypedValues = NDArray[Any]  # (N,): float64 with NaN where missing, or texts (object) with "" where missing


def read_typed(rows: Any, columns: Sequence[Column], source: object, missing: Sequence[str] = ()) -> list[TypedValues]:
    """Return the typed values of each distinct column, (N,); the arguments are those of `encode_rows`."""
    columns = distinct_columns(columns)
    frame = as_frame(rows, columns)
    cells, adapted = match_cells(frame_cells(frame, columns, missing), columns, source, frame.attrs.get("separator"))
    typed: list[TypedValues] = []
    for column in adapted:
        what = f"column {column['name']} of {source}"
        if column["kind"] == "category":
            codes, names = name_cells(cells[column["name"]])
            check_unseen(codes, names, column, what, len(columns) == 1)
            typed.append(np.array([*names, ""], dtype=object)[codes])
        else:
            numbers = read_numbers(cells[column["name"]], column, what)
            typed.append(as_iso(numbers) if column["kind"] == "date" else numbers)
    return typed


def encode_typed(values: Sequence[TypedValues], columns: Sequence[Column], source: object) -> NDArray[np.float32]:
    """Encode the typed values of each distinct column, (N,), as features, shape (N, F)."""
    import pandas as pd  # imported here because it takes 0.5 s

    plain = [column | {"units": []} if "units" in column else column for column in columns]
    names = (column["name"] for column in distinct_columns(columns))
    frame = pd.DataFrame(dict(zip(names, values, strict=True)))
    return encode_rows(frame, plain, source)


def as_iso(days: Floats) -> NDArray[np.object_]:
    """Return days from the year 1 (N,) as dates and times in ISO format, "" for NaN.

    Examples:
        >>> as_iso(np.array([738885.5, np.nan])).tolist()
        ['2024-01-01T12:00:00.000000', '']
    """
    known = ~np.isnan(days)
    moments = np.datetime64("0001-01-01", "us") + np.rint(np.where(known, days, 0) * DAY).astype("timedelta64[us]")
    return np.where(known, moments.astype(str), "").astype(object)
