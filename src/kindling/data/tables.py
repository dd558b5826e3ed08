"""A table of one's own: a CSV or Parquet file, one column of which is the class."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from kindling.console import say
from kindling.data.columns import NO_CLASS, encode, learn_columns, to_names, twins, width
from kindling.data.datamodule import ArrayDataset, Batch, ClassificationDataModule, Split, hold_out
from kindling.data.tablefiles import read_table
from kindling.runs import whole_file
from kindling.wording import did_you_mean, listed

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_CLASSES = 1000
FEWEST_ROWS = 3  # of a class: one each for training, validation and test
LEFT_OUT = "left out"  # the split of a row without a class
SPLITS = ("train", "val", "test", LEFT_OUT)


class TableDataModule(ClassificationDataModule):
    """Rows of a CSV or Parquet file, one column of which holds the class.

    How the other columns become numbers is learned from the training rows alone and kept in the checkpoint: see
    `columns.encode`. Columns that are constant, ids or free text are left out.

    Args:
        path: CSV (fields separated by comma, semicolon, tab or bar) or Parquet.
        target: Name of the column that holds the classes. Rows without one are left out.
        drop: Names of columns to leave out.
        test_split: Rows (or as a float, their share) held out for testing, with the same share of every class.
        test_path: File of rows for testing; then none of `path` are.
        split: CSV with the columns row (from 0) and split (train, val, test), which decides instead. `fit` writes one.
        predict: File of rows to predict; by default those of the test split.
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
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.path, self.target, self.drop = path, target, drop
        self.test_split, self.test_path, self.split, self.predict = test_split, test_path, split, predict

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

    @property
    def _learned(self) -> dict[str, Any]:
        if not self.fitted:
            self._read_training()
        return self.fitted

    @cached_property
    def table(self) -> "DataFrame":
        """All rows of `path` as they were read, numbered from 0."""
        return self._read(self.path)

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """The split of each row of `path`, (N,)."""
        labels, names = to_names(self.table[self.target], NO_CLASS)
        self._check_classes(np.bincount(labels[labels >= 0], minlength=len(names)).tolist(), names)
        shares = {"val": self.val_split} if self.test_path else {"test": self.test_split, "val": self.val_split}
        if self.split is not None:
            splits = np.where(labels >= 0, read_split(Path(self.split), self.path, len(labels)), LEFT_OUT)
            if absent := [name for name in ("train", *shares) if name not in splits]:
                raise ValueError(f"{self.split} puts no row of {self.path} into {listed(absent)}")
            return splits
        splits = np.where(labels >= 0, "train", LEFT_OUT).astype(object)
        rest = np.flatnonzero(labels >= 0)
        for name, share in shares.items():
            kept, held_out = hold_out(torch.from_numpy(labels[rest]), f"{name}_split", share, self.split_seed)
            splits[rest[held_out.numpy()]] = name
            rest = rest[kept.numpy()]
        return splits

    @override
    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        if not self.fitted:
            if unlabelled := int((self.splits == LEFT_OUT).sum()):
                say(f"left out: {unlabelled:,} rows of {self.path} without {self.target}")
            self.fitted = self._learn(self.table[self.splits == "train"])
            if self.test_path is not None:
                self.load("test")  # what is wrong with it is said before the training
        chosen = np.isin(self.splits, ("train", "val"))
        inputs, labels = self._encode(self.table[chosen], self.path)
        val = torch.from_numpy(self.splits[chosen] == "val")
        return ArrayDataset(inputs[~val], labels[~val]), ArrayDataset(inputs[val], labels[val])

    @override
    def load(self, split: Split) -> Batch:
        if self.test_path is None:
            self.tested = self.table[self.splits == split]
            return self._encode(self.tested, self.path)
        table = self._read(self.test_path)
        self.tested = table[to_names(table[self.target], NO_CLASS)[0] >= 0]
        if self.tested.empty:
            raise ValueError(f"{self.test_path} has no row with a {self.target}")
        return self._encode(self.tested, self.test_path)

    @override
    def load_new(self) -> ArrayDataset:
        if self.predict is None:
            return super().load_new()
        inputs = torch.from_numpy(encode(read_table(self.predict), self._learned["columns"], self.predict))
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
        with whole_file(run / "split.csv") as path:
            rows = (f"{row},{split}" for row, split in enumerate(self.splits))
            path.write_text("\n".join(["row,split", *rows, ""]), encoding="utf-8")

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.fitted and state_dict != self.fitted:  # the weights mean other columns than those read
            raise ValueError(f"{self.path} is not what the checkpoint was trained on: train anew, without --ckpt_path")
        super().load_state_dict(state_dict)

    def _read(self, path: str | Path) -> "DataFrame":
        frame = read_table(path)
        if self.target not in frame:
            near = did_you_mean(self.target, frame.columns) or "."
            raise ValueError(f"{path} has no column {self.target} as the target{near} It has {listed(frame.columns)}")
        return frame

    def _check_classes(self, counts: Sequence[int], names: Sequence[str]) -> None:
        """Refuses a target that is no class, or has classes that can't be learned."""
        what = f"column {self.target} of {self.path}"
        if len(names) < 2:
            raise ValueError(f"{what} has {f'one class alone, {names[0]}' if names else 'no values'}: nothing to learn")
        few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < FEWEST_ROWS]
        measured = len(names) > 20 and self.table[self.target].dtype.kind == "f" and any("." in name for name in names)
        if len(names) > MOST_CLASSES or measured or 2 * len(few) > len(names) > 20:
            raise ValueError(f"{what} has {len(names):,} different values: this is no classification")
        if few:
            raise ValueError(
                f"{what} has classes with fewer than {FEWEST_ROWS} rows: {listed(few)}: leave these rows out or merge "
                "the classes"
            )

    def _learn(self, train: "DataFrame") -> dict[str, Any]:
        features = train.drop(columns=self.target)
        for name in self.drop:
            if name not in features:
                raise ValueError(f"drop: {self.path} has no column {name}{did_you_mean(name, features.columns)}")
        labels, classes = to_names(train[self.target], NO_CLASS)
        columns, left_out = learn_columns(features.drop(columns=list(self.drop)), len(self.table))
        for name in twins(features, columns, labels):
            say(f"{name} says the class by itself: if it is not known beforehand, leave it out: --data.drop '[{name}]'")
        return {"classes": classes, "columns": columns, "left_out": left_out}

    def _encode(self, frame: "DataFrame", file: str | Path) -> Batch:
        labels, names = to_names(frame[self.target], NO_CLASS)
        places = {name: place for place, name in enumerate(self.class_names)}
        if unknown := [name for name in names if name not in places]:
            raise ValueError(
                f"column {self.target} of {file} has classes that no training row has: {listed(unknown)}; "
                f"training has {listed(self.class_names)}"
            )
        place = torch.tensor([places[name] for name in names])
        inputs: Tensor = torch.from_numpy(encode(frame, self._learned["columns"], file))
        return inputs, place[torch.from_numpy(labels)]


def read_split(file: Path, path: str | Path, rows: int) -> NDArray[np.object_]:
    """Reads a split.csv.

    Args:
        file: The CSV with the columns row and split.
        path: The table that it splits, for messages.
        rows: Rows of that table.

    Returns:
        The split of each row, (N,).

    Raises:
        ValueError: If it does not fit the table.
    """
    table = read_table(file)
    if not {"row", "split"} <= set(table.columns) or not set(table["split"]) <= set(SPLITS):
        raise ValueError(f"{file} must have the columns row and split, and of splits {', '.join(SPLITS)}")
    if sorted(table["row"]) != list(range(rows)):
        raise ValueError(
            f"{file} splits {len(table):,} rows, {path} has {rows:,}: give other rows to test with --data.test_path, "
            "or split anew with --data.split null"
        )
    splits: NDArray[np.object_] = table.sort_values("row")["split"].to_numpy(dtype=object)
    return splits
