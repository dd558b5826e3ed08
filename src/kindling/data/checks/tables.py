"""Rows of a table, and checks of its columns."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kindling.data.checks.copies import Indices, expected_copies
from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable
from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.columns import CONSTANT, ID_NAME
from kindling.data.tables.datamodule import TableDataModule
from kindling.data.tables.reading import missing_values
from kindling.data.tables.rows import width
from kindling.data.tables.split_columns import reasons
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import Column
from kindling.utils.text import count_noun, join_names

COPIES_FIX = "remove the copies, or name a column that is the same for all of them: --data.groups COLUMN"
MOSTLY = 0.5  # of the values of a column are missing
MIN_GROUPS = 10  # distinct values of a column of groups
MIN_GROUP_ROWS = 1.5  # rows of a group on average


class TableRows:
    """The rows of a table, with those of its test file if it has one, in the order train, val, test.

    Args:
        data: The data module, which has read its training rows.
    """

    def __init__(self, data: TableDataModule) -> None:
        self.data = data
        data.setup("test")
        self.rows = {split: np.flatnonzero(data.splits == split) for split in ("train", "val", "test")}
        self.test_file = None if data.test_path is None else TableFile(data.test_path, data.target, data.missing)
        if data.test_path is not None:
            self.rows["test"] = np.asarray(data.tested.index)
        self.splits = np.repeat(np.array([*self.rows], dtype=object), [len(rows) for rows in self.rows.values()])
        self.names = [
            f"row {row}" + (f" of {data.test_path}" if split == "test" and data.test_path is not None else "")
            for split, rows in self.rows.items()
            for row in rows.tolist()
        ]

    def values(self, name: str, drop: frozenset[str] = frozenset()) -> tuple[Indices, list[str]]:
        """Return the index of the value of each row in a column, -1 where missing, (N,); and the values."""
        own = [self._cells(self.data.file, split, name, drop) for split in ("train", "val")]
        test = self._cells(self.test_file or self.data.file, "test", name, drop)
        index: dict[str, int] = {}
        parts = []
        for cells in (*own, test):
            codes, names = name_cells(cells)
            positions = [index.setdefault(each, len(index)) for each in names]
            parts.append(np.array([*positions, -1])[codes])
        return np.concatenate(parts), list(index)

    def _cells(self, file: TableFile, split: str, name: str, drop: frozenset[str]) -> Cells:
        return file.cells(name, self.rows[split]).select(drop=drop)  # type: ignore[arg-type]

    def samples(self) -> SampleTable:
        """Return the rows as samples: equal ones have the same values in all columns that are features."""
        import pandas as pd  # imported here because it takes 0.5 s

        data = self.data
        codes = [self.values(column["name"])[0] for column in data.fitted["columns"]]
        inputs = np.zeros(len(self.names), dtype=np.int64)
        for column in codes:
            inputs = pd.factorize(inputs * (column.max() + 2) + column)[0]
        datasets = (data.train, data.val, data.test)
        kept = _comparable(data.fitted["columns"])
        features = np.concatenate([dataset.inputs.numpy() for dataset in datasets])[:, kept]
        targets = np.concatenate([dataset.labels.numpy() for dataset in datasets])
        classes = data.class_names if data.task == "classification" else ()
        chance = expected_copies(codes)
        return SampleTable(self.splits, self.names, inputs, targets, classes, chance, features if kept.any() else None)

    def missing(self) -> dict[str, int]:
        """Return the number of missing values of each column that has some."""
        columns = {column["name"]: column for column in self.data.fitted["columns"]}
        counts = {}
        for name in self.data.file.features:
            drop = missing_values(columns[name]) if name in columns else frozenset()
            if self.test_file is None or name in self.test_file.frame:
                counts[name] = int((self.values(name, drop)[0] < 0).sum())
        return {name: number for name, number in counts.items() if number}

    def contents(self) -> dict[str, str]:
        """Return the number of columns of each kind."""
        kinds = Counter(column["kind"] for column in self.data.fitted["columns"])
        plurals = {"number": "numbers", "category": "categories", "date": "dates"}
        shown = [count_noun(number, kind, plurals[kind]) for kind, number in kinds.items()]
        left_out = [f"{name} ({reason})" for name, reason in self.data.fitted["left_out"].items()]
        return {"columns": join_names(shown)} | ({"left out": join_names(left_out, 5)} if left_out else {})

    def findings(self, missing: Mapping[str, int]) -> Iterator[Finding]:
        """Yield findings about columns."""
        yield from self._leaks()
        yield from self._groups()
        data = self.data
        used_to_split = reasons(data.groups, data.time)
        for name, reason in data.fitted["left_out"].items():
            if name not in used_to_split:
                what = "is constant" if reason == CONSTANT else f"is no feature: {reason}"
                yield Finding("columns", "warning", f"column {name} {what}", [name], self._drop(name))
        for name, number in missing.items():
            if number > MOSTLY * len(self.names) and name not in data.fitted["left_out"]:
                share = f"{number:,} of {len(self.names):,} values are missing"
                fix = f"fill them in, or leave the column out: {self._drop(name)}"
                yield Finding("missing", "warning", f"column {name}: {share}", [name], fix)

    def _leaks(self) -> Iterator[Finding]:
        data, train = self.data, self.data.splits == "train"
        cells = {column["name"]: data.file.cells(column["name"], train) for column in data.fitted["columns"]}
        for name in data._target.find_leaks(cells, data.fitted["columns"], train):
            yield Finding(
                "leak",
                "error",
                f"column {name} alone determines the target {data.target}",
                [name],
                f"if it is known only after the target, leave it out: {self._drop(name)}",
            )

    def _groups(self) -> Iterator[Finding]:
        """Yield a finding for each ID column whose values occur in several rows and in several splits."""
        for name in self.data.file.features:
            if self.data.groups or not ID_NAME.fullmatch(name) or not self._is_in_test_file(name):
                continue
            codes, values = self.values(name)
            counts = np.bincount(codes[codes >= 0], minlength=len(values))
            if len(values) < MIN_GROUPS or counts.sum() < MIN_GROUP_ROWS * len(values):
                continue
            crossing = [values[code] for code in in_several_splits(codes, self.splits)]
            if crossing:
                message = f"column {name}: {len(crossing):,} of {len(values):,} values are in more than one split"
                fix = (
                    f"if rows of one {name} belong together, keep them in one split: --data.groups {shlex.quote(name)}"
                )
                yield Finding("groups", "warning", message, crossing, fix)

    def _is_in_test_file(self, name: str) -> bool:
        return self.test_file is None or name in self.test_file.frame

    def _drop(self, name: str) -> str:
        return f"--data.drop {shlex.quote(json.dumps([*self.data.drop, name], ensure_ascii=False))}"


def in_several_splits(codes: Indices, splits: NDArray[np.object_]) -> Indices:
    """Return the values that occur in several splits.

    Args:
        codes: Index of the value of each row, -1 where missing, (N,).
        splits: The split of each row, (N,).
    """
    names, numbers = np.unique(splits, return_inverse=True)
    known = codes >= 0
    pairs = np.unique(codes[known] * len(names) + numbers[known])  # each value with each split that has it
    return np.flatnonzero(np.bincount(pairs // len(names)) > 1)


def _comparable(columns: Sequence[Column]) -> NDArray[np.bool_]:
    """Return which features are comparable: target encodings of a training row depend on the fold that it is in."""
    kept = []
    for column in columns:
        encoded = len(column["classes"]) if "encodings" in column else 0
        missing = int(column["missing"])
        kept += [True] * (width(column) - encoded - missing) + [False] * encoded + [True] * missing
    return np.array(kept)
