"""A table of one's own: a CSV or Parquet file, one column of which is the class."""

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
from kindling.data.tables.columns import encode_cells, learn_columns, width
from kindling.data.tables.files import read_table
from kindling.data.tables.leaks import find_leaky_columns
from kindling.data.tables.rows import encode_rows
from kindling.data.tables.splits import LEFT_OUT, read_split
from kindling.data.tables.target import check_classes, odd_classes
from kindling.data.tables.values import LEGACY_NO_CLASS, Indices, as_name, in_order
from kindling.utils.console import progress
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun, join_names, suggest

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pandas import DataFrame, Series


class TableDataModule(ClassificationDataModule):
    """Rows of a CSV or Parquet file, one column of which holds the class.

    How the other columns become numbers is learned from the training rows alone and kept in the checkpoint: see
    `columns.encode`. Columns that are constant, ids or free text are left out.

    Args:
        path: CSV (fields separated by comma, semicolon, tab or bar) or Parquet.
        target: Name of the column that holds the classes. Rows without one are left out.
        drop: Names of columns to leave out.
        test_split: Rows to hold out for testing, about, or as a float, their share: of each class at least one. So
            does `val_split`, of the others.
        test_path: File of rows for testing; then none of `path` are.
        split: CSV with the columns row (from 0) and split (train, val, test), which decides instead. `fit` writes one.
        predict: File of rows to predict; by default those of the test split.
        missing: Text that stands for a missing value, such as NA or -999, or several: ["NA", "?"]. An empty field
            always does.
        decimal: Decimal sign of the numbers of `path` where they leave it open, as 1,234 does.
        **loading: Batches and validation split, see `ClassificationDataModule`.
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
            raise ValueError(f"missing must be texts in quotes, such as --data.missing '[\"?\"]', got {missing}")
        self.missing = [*map(as_name, [missing] if isinstance(missing, str) else missing)]
        self.decimal = decimal
        self._cells: dict[str, Cells] = {}
        self.resumes = False  # whether training resumes with what a checkpoint has learned

    @override
    def begin_with(self, learned: dict[str, Any]) -> None:
        # Learning anew could give other columns: a later version reads and encodes more of them. That the rows are the
        # same is known from their digest.
        self.load_state_dict(learned)
        self.resumes = bool(learned)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Classes among the training rows."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Their names, sorted: numbers by size, others by the alphabet."""
        return tuple(self._learned["classes"])

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """One dimension: the features of a row."""
        return (sum(map(width, self._learned["columns"])),)

    @cached_property
    def table(self) -> "DataFrame":
        """All rows of `path` as they were read, numbered from 0."""
        table = self._read(self.path)
        if self.resumes:
            self._check_columns(table)
        return table

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """The split of each row of `path`, (N,)."""
        labels, names = self._read_classes(self.table[self.target])
        check_classes(labels, names, self._classes, self._held_out, self.split is not None)
        splits = np.where(labels >= 0, "train", LEFT_OUT).astype(object)
        if self.split is not None:
            splits[labels >= 0] = read_split(Path(self.split), self.path, len(labels))[labels >= 0]
            if absent := [name for name in ("train", *self._held_out) if name not in splits]:
                raise ValueError(f"{self.split} puts no row of {self.path} into {join_names(absent)}")
            return splits
        with progress(f"splitting {count_noun(len(splits), 'row', 'rows')} of {self.path}"):
            for name, size in self._held_out.items():
                rest = np.flatnonzero(splits == "train")
                classes = dict(zip(rest.tolist(), labels[rest].tolist(), strict=True))
                splits[list(sample_groups(classes, "rows", name, size, self.split_seed))] = name
        return splits

    @cached_property
    def rows(self) -> Batch:
        """The rows of `path` that have a class, encoded.

        Raises:
            ValueError: If they or their splits are others than in the training: those to test may be known from it.
        """
        labelled = self.splits != LEFT_OUT
        trained = self.splits[labelled] == "train"
        select = partial(self._select, rows=labelled)
        inputs, labels = self._encode(self.table.loc[labelled, self.target], select, self.table, self.path, trained)
        self._cells.clear()  # of no further use
        content = hashlib.sha256(inputs.numpy().data)
        content.update(labels.numpy().data)
        content.update(",".join(self.splits).encode())
        digest = content.hexdigest()
        if self.fitted.setdefault("digest", digest) != digest:
            if self.resumes:
                raise self._other_data("other rows or another split")
            raise ValueError(
                f"{self.path} or its split is not as it was in the training, so rows trained on could be tested: give "
                "other rows with --data.test_path"
            )
        return inputs, labels

    def _check_columns(self, frame: "DataFrame") -> None:
        """Check that the columns are those that the checkpoint was trained with, or had left out."""
        learned = {*(column["name"] for column in self.fitted["columns"]), *self.fitted["left_out"]}
        now = {*frame.columns} - {self.target, *self.drop}
        changes = {"without": learned - now, "with": now - learned}
        if found := [f"{change} {join_names(sorted(names), 3)}" for change, names in changes.items() if names]:
            raise self._other_data(f"its columns are {' and '.join(found)}")

    def _other_data(self, reason: str) -> ValueError:
        way_out = "train anew, without --ckpt_path"
        return ValueError(f"{self.path} is not what the checkpoint was trained on: {reason}; {way_out}")

    @property
    def _classes(self) -> str:
        return f"column {self.target} of {self.path}"

    @property
    def _held_out(self) -> dict[str, int | float]:
        return {"val": self.val_split} if self.test_path else {"test": self.test_split, "val": self.val_split}

    @override
    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        if not self.fitted:
            self.fitted = self._learn()
            if self.test_path is not None:
                self.load("test")  # what is wrong with it is said before the training
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
            raise ValueError(f"{self.test_path} has no row with a {self.target}")
        tested = self.tested

        def select(name: str) -> Cells:
            return read_cells(tested[name], self.missing)

        return self._encode(tested[self.target], select, table, self.test_path)

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
            near = suggest(self.target, frame.columns) or "."
            raise ValueError(
                f"{path} has no column {self.target} as the target{near} It has {join_names(frame.columns)}"
            )
        return frame

    def _read_classes(self, target: "Series") -> tuple[Indices, list[str]]:
        """Return the class of each row, -1 where it has none, shape (N,); and their names as they come."""
        legacy = any("missing_values" not in column for column in self.fitted.get("columns", ()))
        return read_names(target, {*self.missing, *(LEGACY_NO_CLASS if legacy else ())})

    def _learn(self) -> dict[str, Any]:
        if unlabelled := int((self.splits == LEFT_OUT).sum()):
            logger.warning(f"left out: {count_noun(unlabelled, 'row', 'rows')} of {self.path} without {self.target}")
        for line in odd_classes(self.table[self.target], self.splits, self._held_out, self._classes, self.missing):
            logger.warning(line)
        features = [name for name in self.table if name != self.target]
        for name in self.drop:
            if name not in features:
                raise ValueError(f"drop: {self.path} has no column {name}{suggest(name, features)}")
        train = self.splits == "train"
        labels, names = self._read_classes(self.table.loc[train, self.target])
        classes = in_order(names)
        labels = np.array([classes.index(name) for name in names])[labels]
        features = [name for name in features if name not in self.drop]
        with progress(f"learning the {count_noun(len(features), 'column', 'columns')} of {self.path}"):
            cells = {name: self._select(name, train) for name in features}
            separator = self.table.attrs.get("separator")
            columns, left_out = learn_columns(cells, labels, len(self.table), separator, self.missing, self.decimal)
            found = find_leaky_columns(cells, columns, labels)
        if found:
            without = shlex.quote(json.dumps([*self.drop, *found], ensure_ascii=False))
            logger.warning(
                f"the class can be told from {join_names(found)} alone: if not known beforehand, --data.drop {without}"
            )
        return {"classes": classes, "columns": columns, "left_out": left_out}

    def _select(self, name: str, rows: NDArray[np.bool_]) -> Cells:
        """Return the cells of a column in some rows of `path`; each value is parsed once for all of them."""
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
        places = {name: place for place, name in enumerate(self.class_names)}
        if unknown := [name for name in names if name not in places]:
            raise ValueError(
                f"column {self.target} of {file} has classes that no training row has: {join_names(unknown)}; "
                f"training has {join_names(self.class_names)}"
            )
        labels = np.array([places[name] for name in names])[labels]
        learned_from = None if trained is None else np.where(trained, labels, -1)
        columns, separator = self._learned["columns"], table.attrs.get("separator")
        with progress(f"encoding {count_noun(len(target), 'row', 'rows')} of {file}"):
            cells = {name: select(name) for name in table if name in {column["name"] for column in columns}}
            inputs: Tensor = torch.from_numpy(encode_cells(cells, columns, file, separator, learned_from))
        return inputs, torch.from_numpy(labels)
