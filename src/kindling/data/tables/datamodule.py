"""Data module for a CSV or Parquet file with a target column."""

import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from kindling.data.datamodule import ArrayDataset, Batch, ClassificationDataModule, Split
from kindling.data.splitting import sample_groups
from kindling.data.tables.cells import Cells, read_cells, read_names
from kindling.data.tables.columns import learn_columns
from kindling.data.tables.files import read_table
from kindling.data.tables.rows import encode_cells, encode_rows, width
from kindling.data.tables.splits import LEFT_OUT, read_split
from kindling.data.tables.target import check_classes, find_leaky_columns, find_oddities
from kindling.data.tables.values import LEGACY_NO_CLASS, Indices, as_name, sort_names
from kindling.utils.console import progress
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun, join_names, suggest

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pandas import DataFrame, Series


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
        self._cells: dict[str, Cells] = {}
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
        """Number of features of a row, as a tuple."""
        return (sum(map(width, self._learned["columns"])),)

    @cached_property
    def table(self) -> "DataFrame":
        """All rows of `path`, numbered from 0."""
        table = self._read(self.path)
        if self.resumes:
            self._check_columns(table)
        return table

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """The split of each row of `path`, (N,)."""
        labels, names = self._read_classes(self.table[self.target])
        check_classes(labels, names, self._target_name, self._held_out, self.split is not None)
        splits = np.where(labels >= 0, "train", LEFT_OUT).astype(object)
        if self.split is not None:
            splits[labels >= 0] = read_split(Path(self.split), self.path, len(labels))[labels >= 0]
            if absent := [name for name in ("train", *self._held_out) if name not in splits]:
                raise ValueError(f"{self.split} has no rows of {self.path} in {join_names(absent)}: add some")
            return splits
        with progress(f"splitting {count_noun(len(splits), 'row', 'rows')} of {self.path}"):
            for name, size in self._held_out.items():
                rest = np.flatnonzero(splits == "train")
                classes = dict(zip(rest.tolist(), labels[rest].tolist(), strict=True))
                splits[list(sample_groups(classes, "rows", name, size, self.split_seed))] = name
        return splits

    @cached_property
    def rows(self) -> Batch:
        """Encoded rows of `path` with a class.

        Raises:
            ValueError: If rows or splits changed since training, as training rows could be tested.
        """
        labelled = self.splits != LEFT_OUT
        trained = self.splits[labelled] == "train"
        select = partial(self._select, rows=labelled)
        inputs, labels = self._encode(self.table.loc[labelled, self.target], select, self.table, self.path, trained)
        self._cells.clear()  # to free memory
        content = hashlib.sha256(inputs.numpy().data)
        content.update(labels.numpy().data)
        content.update(",".join(self.splits).encode())
        digest = content.hexdigest()
        if self.fitted.setdefault("digest", digest) != digest:
            if self.resumes:
                raise self._changed_data("its rows or its split changed")
            raise ValueError(
                f"{self.path} or its split changed since training, so training rows could be tested: set "
                "--data.test_path to other rows"
            )
        return inputs, labels

    def _check_columns(self, frame: "DataFrame") -> None:
        """Raise ValueError if the columns differ from those used or left out in training."""
        learned = {*(column["name"] for column in self.fitted["columns"]), *self.fitted["left_out"]}
        current = {*frame.columns} - {self.target, *self.drop}
        changes = {"without": learned - current, "with": current - learned}
        if found := [f"{change} {join_names(sorted(names), 3)}" for change, names in changes.items() if names]:
            raise self._changed_data(f"its columns are {' and '.join(found)}")

    def _changed_data(self, reason: str) -> ValueError:
        message = f"{self.path} is not the data that the checkpoint was trained on: {reason}"
        return ValueError(f"{message}; start a new run without --ckpt_path")

    @property
    def _target_name(self) -> str:
        return f"column {self.target} of {self.path}"

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
        table = self._read(self.test_path)
        self.tested = table[self._read_classes(table[self.target])[0] >= 0]
        if unlabelled := len(table) - len(self.tested):
            logger.warning(
                f"left out: {count_noun(unlabelled, 'row', 'rows')} of {self.test_path} without {self.target}"
            )
        if self.tested.empty:
            raise ValueError(f"{self.test_path} has no rows with a {self.target}")
        return self._encode(self.tested[self.target], self._read_tested, table, self.test_path)

    def _read_tested(self, name: str) -> Cells:
        return read_cells(self.tested[name], self.missing)

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

    def _read(self, path: str | Path) -> "DataFrame":
        frame = read_table(path)
        if self.target not in frame:
            hint = suggest(self.target, frame.columns) or "."
            raise ValueError(
                f"{path} has no column {self.target} as the target{hint} It has {join_names(frame.columns)}"
            )
        return frame

    def _read_classes(self, target: "Series") -> tuple[Indices, list[str]]:
        """Return the class of each row, -1 where missing, shape (N,); and their names in order of appearance."""
        legacy = any("missing_values" not in column for column in self.fitted.get("columns", ()))
        return read_names(target, {*self.missing, *(LEGACY_NO_CLASS if legacy else ())})

    def _learn(self) -> dict[str, Any]:
        if unlabelled := int((self.splits == LEFT_OUT).sum()):
            logger.warning(f"left out: {count_noun(unlabelled, 'row', 'rows')} of {self.path} without {self.target}")
        target = self.table[self.target]
        for line in find_oddities(target, self.splits, self._held_out, self._target_name, self.missing):
            logger.warning(line)
        features = [name for name in self.table if name != self.target]
        for name in self.drop:
            if name not in features:
                raise ValueError(f"`drop`: {self.path} has no column {name}{suggest(name, features)}")
        train = self.splits == "train"
        labels, names = self._read_classes(self.table.loc[train, self.target])
        classes = sort_names(names)
        labels = np.array([classes.index(name) for name in names])[labels]
        features = [name for name in features if name not in self.drop]
        with progress(f"learning the {count_noun(len(features), 'column', 'columns')} of {self.path}"):
            cells = {name: self._select(name, train) for name in features}
            separator = self.table.attrs.get("separator")
            columns, left_out = learn_columns(cells, labels, len(self.table), separator, self.missing, self.decimal)
            leaky = find_leaky_columns(cells, columns, labels)
        if leaky:
            drop = shlex.quote(json.dumps([*self.drop, *leaky], ensure_ascii=False))
            logger.warning(
                f"possible target leakage: {join_names(leaky)} alone determines the class; to leave it out, "
                f"--data.drop {drop}"
            )
        return {"classes": classes, "columns": columns, "left_out": left_out}

    def _select(self, name: str, rows: NDArray[np.bool_]) -> Cells:
        """Return the cells of a column in some rows of `path`; the column is read only once."""
        if name not in self._cells:
            self._cells[name] = read_cells(self.table[name], self.missing)
        return self._cells[name].select(rows)

    def _encode(
        self,
        target: "Series",
        select: Callable[[str], Cells],
        table: "DataFrame",
        file: str | Path,
        trained: NDArray[np.bool_] | None = None,
    ) -> Batch:
        labels, names = self._read_classes(target)
        positions = {name: position for position, name in enumerate(self.class_names)}
        if unknown := [name for name in names if name not in positions]:
            raise ValueError(
                f"column {self.target} of {file} has classes without training rows: {join_names(unknown)}; "
                f"the model knows {join_names(self.class_names)}"
            )
        labels = np.array([positions[name] for name in names])[labels]
        training_labels = None if trained is None else np.where(trained, labels, -1)
        columns, separator = self._learned["columns"], table.attrs.get("separator")
        with progress(f"encoding {count_noun(len(target), 'row', 'rows')} of {file}"):
            cells = {name: select(name) for name in table if name in {column["name"] for column in columns}}
            inputs: Tensor = torch.from_numpy(encode_cells(cells, columns, file, separator, training_labels))
        return inputs, torch.from_numpy(labels)
