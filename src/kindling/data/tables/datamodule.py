"""Data module for a CSV or Parquet file with a target column of classes or numbers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from kindling.data.classification import LearnedTargets
from kindling.data.datamodule import ArrayDataset, Batch, Split
from kindling.data.fitted_state import MEMBERS, FittedState
from kindling.data.folds import check_fold
from kindling.data.split_constraints import SplitConstraints
from kindling.data.splitting import LEFT_OUT, draw_splits
from kindling.data.tables.ensembles import combine_fitted
from kindling.data.tables.files import read_table
from kindling.data.tables.learning import encode_labeled_rows, learn_table, read_test_target
from kindling.data.tables.rows import encode_rows, find_numeric_features, width
from kindling.data.tables.same_data import check_columns, check_digest, digest_rows
from kindling.data.tables.split_columns import read_constraints
from kindling.data.tables.splits import make_table_splits, write_table_split
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.target import Target, Task, check_target_task, choose_target, known_target
from kindling.data.tables.values import missing_texts
from kindling.utils.console import progress
from kindling.utils.text import count_noun

if TYPE_CHECKING:
    from pandas import DataFrame

FRAME = "X"  # `path` of a data frame, as scikit-learn calls its argument


class TableDataModule(LearnedTargets):
    """Rows of a CSV or Parquet file with a column of classes or numbers to predict.

    The encoding of the other columns is learned from the training rows only and saved in the checkpoint, see
    `kindling.data.tables.rows`. Columns that are constant, IDs or free text are left out.

    Args:
        path: CSV (separated by comma, semicolon, tab or vertical bar) or Parquet file.
        target: Name of the target column. Rows without a target are left out.
        task: Whether the target is classes (classification) or numbers (regression); auto decides by its values.
        drop: Names of columns to leave out.
        test_split: Rows to hold out for testing, at least one of each class, or of each range of numbers: an
            approximate number, or a fraction as a float. `val_split` then holds out of the remaining rows.
        test_path: File of test rows; then no rows of `path` are held out for testing.
        fold: For cross-validation, the fold to test on and the number of folds, such as 1/5; it replaces `test_split`.
        split: CSV with the columns row (from 0) and split (train, val, test), which defines the splits. `fit` saves
            one in the run folder.
        predict: File of rows to predict; by default the test split.
        missing: Text that means a missing value, such as NA or -999, or several: ["NA", "?"]. Empty fields are always
            missing.
        decimal: Decimal sign of ambiguous numbers of `path`, such as 1,234.
        groups: Column of groups, such as a patient: all rows of a group are put into one split. It is no feature.
        time: Column of dates or numbers: the newest rows are for testing, the newest of the others for validation. It
            is no feature.
        **loading: Batches and validation split, see `BaseDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        target: str,
        task: Task = "auto",
        drop: tuple[str, ...] = (),
        test_split: int | float = 0.2,
        test_path: str | Path | None = None,
        split: str | Path | None = None,
        predict: str | Path | None = None,
        missing: tuple[str | float, ...] | str = (),
        decimal: Literal[".", ","] | None = None,
        groups: str | None = None,
        time: str | None = None,
        fold: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.groups, self.time, self.fold = groups, time, fold
        if fold is not None:
            check_fold(fold, "rows", test_path=test_path, split=split)
        self.path, self.target, self.drop = path, target, drop
        self._task = task
        self.test_split, self.test_path, self.split, self.predict = test_split, test_path, split, predict
        self.missing = missing_texts(missing)
        self.decimal = decimal
        self.resumes = False  # whether training resumes with the encoding of a checkpoint

    @classmethod
    def of_frame(cls, frame: "DataFrame", target: str, **options: Any) -> Self:
        """Return a data module for training and validation on the rows of a data frame, without a test split.

        A class may have a single row, which is then trained on.

        Args:
            frame: The rows, numbered from 0.
            target: Name of the target column.
            **options: Other arguments of the data module.
        """
        data = cls(path=FRAME, target=target, **options)
        data.file = TableFile(data.path, target, data.missing, frame)
        data.splits = draw_splits(data._target.strata, {"val": data.val_split}, data.split_seed)
        return data

    @override
    def restore_fitted(self, state: FittedState) -> None:
        # A later version of Kindling could learn other encodings. The digest shows whether the rows are the same.
        self.load_state_dict(state)
        self.resumes = bool(state)

    @override
    def combine_fitted(self, states: Sequence[FittedState]) -> None:
        self.fitted = combine_fitted(states)

    @property
    @override
    def has_test_split(self) -> bool:
        return self.test_path is not None or "test" in self.splits

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict:
            check_target_task(self._task, self.task)

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one row: `(number of features,)`."""
        return (sum(map(width, self.fitted_state["columns"])),)

    @property
    def numeric_features(self) -> tuple[int, ...]:
        """Indices of the features that are numbers, rather than categories or marks of missing values."""
        return find_numeric_features(self.fitted_state["columns"])

    @cached_property
    def file(self) -> TableFile:
        """All rows of `path`, numbered from 0.

        Raises:
            ValueError: If they were a data frame, which a checkpoint does not hold.
        """
        if self.path == FRAME and not Path(FRAME).exists():
            raise ValueError(
                "the model was trained on a data frame, which its checkpoint does not contain: add --data.test_path "
                "FILE to test it, or --data.predict FILE to predict"
            )
        table = TableFile(self.path, self.target, self.missing)
        if self.resumes:
            check_columns(self.path, {*table.features} - {*self.drop}, self.fitted)
        return table

    @cached_property
    def _target(self) -> Target:
        """The target column of `path`."""
        if self.fitted:
            return known_target(self.file, self.fitted)
        return choose_target(self.file, self._task, self.decimal)

    @cached_property
    def constraints(self) -> SplitConstraints:
        """The groups and times of the rows of `path`."""
        return read_constraints(self.file, self.groups, self.time, self._target.known)

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """The split of each row of `path`, (N,)."""
        are_members = MEMBERS in self.fitted  # of an ensemble, each of which has learned from other rows
        if self.split is None and are_members:
            return np.where(self._target.known, "train", LEFT_OUT).astype(object)
        return make_table_splits(
            self._target, self.constraints, self._held_out, self.split_seed, self.fold, self.split, not are_members
        )

    @cached_property
    def rows(self) -> Batch:
        """Encoded rows of `path` with a target.

        Raises:
            ValueError: If rows or splits changed since training, as training rows could be tested.
        """
        columns, used, train = self.fitted_state["columns"], self.splits != LEFT_OUT, self.splits == "train"
        inputs, targets = encode_labeled_rows(self._target, columns, used, train)
        self.file.free_memory()
        check_digest(self.path, digest_rows(inputs, targets, self.splits), self.fitted, self.resumes)
        return inputs, targets

    @property
    def _held_out(self) -> dict[str, int | float]:
        return {"val": self.val_split} if self.test_path else {"test": self.test_split, "val": self.val_split}

    @override
    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        if not self.fitted:
            held_out = [split for split in self._held_out if split in self.splits]  # a data frame has no test split
            used_to_split = [name for name in (self.groups, self.time) if name is not None]
            self.fitted = learn_table(
                self._target, self.splits, held_out, self.constraints, self.drop, used_to_split, self.decimal
            )
            if self.test_path is not None:
                self.load("test")  # to report its errors before training
        return ArrayDataset(*self._rows_of("train")), ArrayDataset(*self._rows_of("val"))

    @override
    def load(self, split: Split) -> Batch:
        if self.test_path is None:
            if not self.has_test_split:
                raise ValueError(
                    f"{self.path} has no test rows: the members of the ensemble were trained on different ones, all "
                    "together; add --data.test_path FILE to test on unseen rows, or --data.predict FILE to predict"
                )
            self.tested = self.file.frame[self.splits == split]
            return self._rows_of(split)
        if Path(self.test_path).resolve() == Path(self.path).resolve():
            raise ValueError(
                f"`test_path` {self.test_path} is `path` itself, whose rows are trained on: leave it out to test the "
                "rows that `test_split` holds out"
            )
        target = read_test_target(self.test_path, self.target, self.missing, self.fitted)
        self.tested = target.table.frame[target.known]
        if self.groups or self.time:
            tested = read_constraints(target.table, self.groups, self.time, target.known, self.file)
            self.constraints.check_test(tested, self.splits)
        return encode_labeled_rows(target, self.fitted_state["columns"], target.known)

    def _rows_of(self, split: str) -> Batch:
        inputs, targets = self.rows
        chosen = torch.from_numpy(self.splits[self.splits != LEFT_OUT] == split)
        return inputs[chosen], targets[chosen]

    @override
    def load_predict(self) -> ArrayDataset:
        if self.predict is None:
            tested: ArrayDataset = super().load_predict()
            return tested
        self.predicted = read_table(self.predict)
        with progress(f"encoding {count_noun(len(self.predicted), 'row', 'rows')} of {self.predict}"):
            encoded = encode_rows(self.predicted, self.fitted_state["columns"], self.predict, self.missing)
        inputs = torch.from_numpy(encoded)
        return ArrayDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64))

    @property
    @override
    def draws_folds(self) -> bool:
        return not (self.test_path or self.split or self.time or self.fold)

    @override
    def predicted_rows(self) -> Sequence[object]:
        return super().predicted_rows() if self.predict else self.tested_rows()

    @override
    def tested_rows(self) -> Sequence[object]:
        return list(self.tested.index)

    @override
    def keys(self, of: Literal["tested", "predicted"]) -> Mapping[str, Sequence[object]]:
        frame = self.predicted if of == "predicted" and self.predict else self.tested
        names = [name for name in self.fitted.get("keys", ()) if name in frame]
        return {name: frame[name].astype(object).where(frame[name].notna(), "").tolist() for name in names}

    @override
    def sample_details(self, row: int) -> dict[str, object]:
        sample = self.tested.iloc[[row]].astype(object)
        values: dict[str, object] = sample.where(sample.notna(), None).to_dict("records")[0]
        return values

    @override
    def write_split(self, run: Path) -> None:
        write_table_split(run / "split.csv", self.splits)
