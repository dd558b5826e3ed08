"""The encoding of a table, learned from its training rows, and the rows of a file in that encoding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kindling.data.datasets import Batch
from kindling.data.split_constraints import SplitConstraints
from kindling.data.tables.class_target import ClassTarget
from kindling.data.tables.columns import is_key, learn_columns
from kindling.data.tables.leakage import warn_leaks
from kindling.data.tables.rows import encode_cells
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.target import Target, known_target
from kindling.data.tables.values import Column
from kindling.utils.console import progress
from kindling.utils.text import count_noun, join_names, suggest


def learn_table(
    target: Target,
    splits: NDArray[np.object_],
    held_out: Sequence[str],
    constraints: SplitConstraints,
    drop: Sequence[str],
    used_to_split: Sequence[str],
    decimal: str | None,
) -> dict[str, Any]:
    """Return the fitted state of a table, see `TableDataModule.fitted`, and warn about what is odd in it.

    Args:
        target: The target column of the table.
        splits: The split of each row, (N,).
        held_out: Names of the splits besides train.
        constraints: Groups and times of the rows.
        drop: Names of columns to leave out.
        used_to_split: Names of the columns that the splits depend on, which are no features.
        decimal: Decimal sign of ambiguous numbers.

    Raises:
        ValueError: If the training rows are not enough, or a column to leave out does not exist.
    """
    table, train = target.table, splits == "train"
    table.warn_unlabelled(target.known)
    if isinstance(target, ClassTarget):
        constraints.check_classes(target.labels, target.names, splits)
    fitted = target.learn(splits, held_out)
    if absent := [name for name in drop if name not in table.features]:
        noun = "column" if len(absent) == 1 else "columns"
        hint = suggest(absent[0], table.features) if len(absent) == 1 else ""
        raise ValueError(
            f"`drop`: {table.path} has no {noun} {join_names(absent)}{hint or '.'} It has {join_names(table.features)}"
        )
    features = [name for name in table.features if name not in (*drop, *used_to_split)]
    with progress(f"learning the {count_noun(len(features), 'column', 'columns')} of {table.path}"):
        cells = {name: table.cells(name, train) for name in features}
        targets = target.for_encoding(train, train)
        columns, left_out = learn_columns(cells, targets, len(train), table.separator, [*table.missing], decimal)
        leaky = target.find_leaks(cells, columns, train)
    warn_leaks(leaky, target.noun, drop)
    keys = [name for name in (*left_out, *drop) if is_key(table.cells(name))]
    left_out |= dict.fromkeys(used_to_split, "defines the splits")
    return fitted | {"columns": columns, "left_out": left_out, "keys": keys}


def encode_labeled_rows(
    target: Target, columns: Sequence[Column], rows: NDArray[np.bool_], training_rows: NDArray[np.bool_] | None = None
) -> Batch:
    """Return the features (n, F) and the targets (n,) of some rows of a file.

    Args:
        target: The target column of the file.
        columns: The encoding of each column.
        rows: Which rows to encode, (N,).
        training_rows: Which of the rows of the file are training rows, (N,): each is encoded from the other ones.
    """
    table, targets = target.table, target.encode(rows)
    averaged = None if training_rows is None else target.for_encoding(rows, training_rows)
    names = {column["name"] for column in columns}
    with progress(f"encoding {count_noun(len(targets), 'row', 'rows')} of {table.path}"):
        cells = {name: table.cells(name, rows) for name in table.features if name in names}
        inputs = torch.from_numpy(encode_cells(cells, columns, table.path, table.separator, averaged))
    return inputs, torch.from_numpy(targets)


def read_test_target(path: str | Path, name: str, missing: Sequence[str], fitted: Mapping[str, Any]) -> Target:
    """Return the target column of a file of test rows, and warn about rows without a target.

    Args:
        path: The file.
        name: Name of the target column.
        missing: Texts that mean a missing value.
        fitted: The fitted state of the data module.

    Raises:
        ValueError: If no row has a target.
    """
    target = known_target(TableFile(path, name, missing), fitted)
    target.table.warn_unlabelled(target.known)
    if not target.known.any():
        raise ValueError(f"{path} has no rows with a {name}")
    return target
