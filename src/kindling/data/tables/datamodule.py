"""Data module for a CSV or Parquet file with a target column."""

import hashlib
import json
import logging
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from kindling.data.datamodule import ArrayDataset, Batch, ClassificationDataModule, Split
from kindling.data.tables.columns import learn_columns
from kindling.data.tables.rows import encode_cells, encode_rows, width
from kindling.data.tables.splits import LEFT_OUT, draw_splits, read_split
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.target import check_classes, class_indices, find_leaky_columns, find_oddities
from kindling.data.tables.values import LEGACY_NO_CLASS, as_name, sort_names
from kindling.utils.console import progress
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun, join_names, suggest

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


class TableDataModule(ClassificationDataModule):
    """Rows of a CSV or Parquet file with a target column for the class.

    The encoding of the other columns is learned from the training rows only and saved in the checkpoint, see
    `kindling.data.tables.rows`. Columns that are constant, IDs or free text are left out.

    Args:
        path: CSV (separated by comma, semicolon, tab or vertical bar) or Parquet file.
        target: Name of the target column. Rows without a class are left out.
        drop: Names of columns to leave out.
        test_split: Rows to hold out for testing, at least one of each class: an approximate number, or a fraction as a
            float. `val_split` then holds out of the remaining rows.
        test_path: File of test rows; then no rows of `path` are held out for testing.
        split: CSV with the columns row (from 0) and split (train, val, test), which defines the splits. `fit` saves
            one in the run folder.
        predict: File of rows to predict; by default the test split.
        missing: Text that means a missing value, such as NA or -999, or several: ["NA", "?"]. Empty fields are always
            missing.
        decimal: Decimal sign of ambiguous numbers of `path`, such as 1,234.
        **loading: Batches and validation split, see `BaseDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        target: str,
        drop: tuple[str, ...] = (),
        test_split: int | float = 0.2,
        test_path: str | Path | None = None,
        split: str | Path | None = None,
        predict: str | Path | None = None,
        missing: tuple[str | float, ...] | str = (),
        decimal: Literal[".", ","] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.path, self.target, self.drop = path, target, drop
        self.test_split, self.test_path, self.split, self.predict = test_split, test_path, split, predict
        if not isinstance(missing, str | list | tuple):
            raise ValueError(f"`missing` must be quoted texts, such as --data.missing '[\"?\"]', got {missing}")
        self.missing = [*map(as_name, [missing] if isinstance(missing, str) else missing)]
        self.decimal = decimal
        self.resumes = False  # whether training resumes with the encoding of a checkpoint

    @override
    def begin_with(self, learned: dict[str, Any]) -> None:
        # A later version of Kindling could learn other encodings. The digest shows whether the rows are the same.
        self.load_state_dict(learned)
        self.resumes = bool(learned)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes in the training rows."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes, sorted, by value if all are numbers."""
        return tuple(self._learned["classes"])

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one row: `(number of features,)`."""
        return (sum(map(width, self._learned["columns"])),)

    @cached_property
    def file(self) -> TableFile:
        """All rows of `path`, numbered from 0."""
        table = self._open(self.path)
        if self.resumes:
            self._check_columns(table.features)
        return table

    @property
    def table(self) -> "DataFrame":
        """The rows of `path` as they were read."""
        return self.file.frame

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """The split of each row of `path`, (N,)."""
        labels = self.file.labels
        check_classes(self.file, self._held_out, self.split is not None)
        if self.split is None:
            with progress(f"splitting {count_noun(len(labels), 'row', 'rows')} of {self.path}"):
                return draw_splits(labels, self._held_out, self.split_seed)
        splits = np.where(labels >= 0, read_split(Path(self.split), self.path, len(labels)), LEFT_OUT).astype(object)
        if absent := [name for name in ("train", *self._held_out) if name not in splits]:
            raise ValueError(f"{self.split} has no rows of {self.path} in {join_names(absent)}: add some")
        return splits

    @cached_property
    def rows(self) -> Batch:
        """Encoded rows of `path` with a class.

        Raises:
            ValueError: If rows or splits changed since training, as training rows could be tested.
        """
        inputs, labels = self._encode(self.file, self.splits != LEFT_OUT, self.splits == "train")
        self.file.free_memory()
        content = hashlib.sha256(inputs.numpy().data)
        content.update(labels.numpy().data)
        content.update(",".join(self.splits).encode())
        digest = content.hexdigest()
        if self.fitted.setdefault("digest", digest) != digest:
            if self.resumes:
                raise self._changed_data("its rows or its split changed")
            raise ValueError(
                f"{self.path} or its split changed since training, so the test split may contain training rows: set "
                "--data.test_path to unseen rows"
            )
        return inputs, labels

    def _check_columns(self, features: Sequence[str]) -> None:
        """Raise ValueError if the columns differ from those seen in training, used or dropped."""
        learned = {*(column["name"] for column in self.fitted["columns"]), *self.fitted["left_out"]}
        current = {*features} - {*self.drop}
        changes = {"without": learned - current, "with": current - learned}
        if found := [f"{change} {join_names(sorted(names), 3)}" for change, names in changes.items() if names]:
            raise self._changed_data(f"its columns are {' and '.join(found)}")

    def _changed_data(self, reason: str) -> ValueError:
        message = f"{self.path} is not the data that the checkpoint was trained on: {reason}"
        return ValueError(f"{message}; start a new run without --ckpt_path")

    @property
    def _held_out(self) -> dict[str, int | float]:
        return {"val": self.val_split} if self.test_path else {"test": self.test_split, "val": self.val_split}

    @override
    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        if not self.fitted:
            self.fitted = self._learn()
            if self.test_path is not None:
                self.load("test")  # to report its errors before training
        return ArrayDataset(*self._rows_of("train")), ArrayDataset(*self._rows_of("val"))

    @override
    def load(self, split: Split) -> Batch:
        if self.test_path is None:
            self.tested = self.table[self.splits == split]
            return self._rows_of(split)
        table = self._open(self.test_path)
        table.warn_unlabelled()
        self.tested = table.frame[table.labels >= 0]
        if self.tested.empty:
            raise ValueError(f"{self.test_path} has no rows with a {self.target}")
        return self._encode(table, table.labels >= 0)

    def _rows_of(self, split: str) -> Batch:
        inputs, labels = self.rows
        chosen = torch.from_numpy(self.splits[self.splits != LEFT_OUT] == split)
        return inputs[chosen], labels[chosen]

    @override
    def load_new(self) -> ArrayDataset:
        if self.predict is None:
            tested: ArrayDataset = super().load_new()
            return tested
        columns = self._learned["columns"]
        inputs = torch.from_numpy(encode_rows(self.predict, columns, self.predict, self.missing))
        return ArrayDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64))

    @override
    def predicted_rows(self) -> Sequence[object]:
        return super().predicted_rows() if self.predict else self.tested_rows()

    @override
    def tested_rows(self) -> Sequence[object]:
        return list(self.tested.index)

    @override
    def describe(self, row: int) -> dict[str, object]:
        sample = self.tested.iloc[[row]].astype(object)
        values: dict[str, object] = sample.where(sample.notna(), None).to_dict("records")[0]
        return values

    @override
    def write_split(self, run: Path) -> None:
        with atomic_write(run / "split.csv") as path:
            rows = (f"{row},{split}" for row, split in enumerate(self.splits))
            path.write_text("\n".join(["row,split", *rows, ""]), encoding="utf-8")

    def _open(self, path: str | Path) -> TableFile:
        legacy = any("missing_values" not in column for column in self.fitted.get("columns", ()))
        return TableFile(path, self.target, self.missing, LEGACY_NO_CLASS if legacy else ())

    def _learn(self) -> dict[str, Any]:
        table, train = self.file, self.splits == "train"
        table.warn_unlabelled()
        for line in find_oddities(table, self.splits, self._held_out):
            logger.warning(line)
        for name in self.drop:
            if name not in table.features:
                raise ValueError(f"`drop`: {self.path} has no column {name}{suggest(name, table.features)}")
        classes = sort_names(table.names[label] for label in np.unique(table.labels[train]))
        labels = class_indices(table.labels[train], table.names, classes, table.target_name)
        features = [name for name in table.features if name not in self.drop]
        with progress(f"learning the {count_noun(len(features), 'column', 'columns')} of {self.path}"):
            cells = {name: table.cells(name, train) for name in features}
            rows = len(table.labels)
            columns, left_out = learn_columns(cells, labels, rows, table.separator, self.missing, self.decimal)
            leaky = find_leaky_columns(cells, columns, labels)
        if leaky:
            drop = shlex.quote(json.dumps([*self.drop, *leaky], ensure_ascii=False))
            logger.warning(
                f"possible target leakage: {join_names(leaky)} alone determines the class; to leave it out, "
                f"--data.drop {drop}"
            )
        return {"classes": classes, "columns": columns, "left_out": left_out}

    def _encode(
        self, table: TableFile, rows: NDArray[np.bool_], training_rows: NDArray[np.bool_] | None = None
    ) -> Batch:
        """Encode some rows of a table; training rows only from the other ones."""
        labels = class_indices(table.labels[rows], table.names, self.class_names, table.target_name)
        training_labels = None if training_rows is None else np.where(training_rows[rows], labels, -1)
        columns = self._learned["columns"]
        names = {column["name"] for column in columns}
        with progress(f"encoding {count_noun(len(labels), 'row', 'rows')} of {table.path}"):
            cells = {name: table.cells(name, rows) for name in table.features if name in names}
            inputs = torch.from_numpy(encode_cells(cells, columns, table.path, table.separator, training_labels))
        return inputs, torch.from_numpy(labels)
