"""Rows of a table, and checks of its columns."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kindling.data.array_types import Indices
from kindling.data.checks.copies import expected_copies
from kindling.data.checks.groups import find_groups
from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable
from kindling.data.datamodule import SPLITS
from kindling.data.datasets import ArrayDataset
from kindling.data.tables.cells import name_cells
from kindling.data.tables.columns import CONSTANT
from kindling.data.tables.datamodule import TableDataModule
from kindling.data.tables.rows import width
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import Column
from kindling.utils.text import count_noun, count_part, join_names

COPIES_FIX = "remove the copies, or name a column that is the same for all of them: --data.groups COLUMN"
MOSTLY = 0.5  # of the values of a column are missing


class TableRows:
    """The rows of a table, with those of its test file if it has one, in the order train, val, test.

    Args:
        data: The data module, which has read its training rows.
    """

    def __init__(self, data: TableDataModule) -> None:
        self.data = data
        data.setup("test")
        self.datasets: list[ArrayDataset] = [data.train, data.val, data.test]
        self.targets = torch.cat([dataset.labels for dataset in self.datasets]).numpy()
        self.rows = {split: np.flatnonzero(data.splits == split) for split in SPLITS}
        self.test_file = None if data.test_path is None else TableFile(data.test_path, data.target, data.missing)
        if data.test_path is not None:
            self.rows["test"] = np.asarray(data.tested.index)
        self.splits = np.repeat(np.array([*self.rows], dtype=object), [len(rows) for rows in self.rows.values()])
        self.names = [
            f"row {row}" + (f" of {data.test_path}" if split == "test" and data.test_path is not None else "")
            for split, rows in self.rows.items()
            for row in rows.tolist()
        ]

    def values(self, name: str, drop: Sequence[str] = ()) -> tuple[Indices, list[str]]:
        """Return the index of the value of each row in a column, -1 where missing, (N,); and the values."""
        index: dict[str, int] = {}
        parts = []
        for split, rows in self.rows.items():
            file = self.test_file if self.test_file and split == "test" else self.data.file
            codes, names = name_cells(file.cells(name, rows).select(drop=drop))  # type: ignore[arg-type]
            positions = [index.setdefault(each, len(index)) for each in names]
            parts.append(np.array([*positions, -1])[codes])
        return np.concatenate(parts), list(index)

    def samples(self) -> SampleTable:
        """Return the rows as samples: equal ones have the same values in all columns that are features."""
        import pandas as pd  # imported here because it takes 0.5 s

        data = self.data
        codes = [self.values(column["name"])[0] for column in data.fitted["columns"]]
        inputs = np.zeros(len(self.names), dtype=np.int64)
        for column in codes:
            inputs = pd.factorize(inputs * (column.max() + 2) + column)[0]
        kept = _comparable(data.fitted["columns"])
        features = torch.cat([dataset.inputs for dataset in self.datasets]).numpy()[:, kept]
        classes = data.class_names if data.task == "classification" else ()
        chance = expected_copies(codes)
        return SampleTable(
            self.splits, self.names, inputs, self.targets, classes, chance, features if kept.any() else None
        )

    def missing(self) -> dict[str, int]:
        """Return the number of missing values of each column that has some."""
        columns = {column["name"]: column for column in self.data.fitted["columns"]}
        counts = {}
        for name in self.data.file.features:
            drop = columns[name]["missing_values"] if name in columns else ()
            if self._is_in_test_file(name):
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
        """Yield findings about columns, one for each column."""
        data = self.data
        findings = self._groups() | self._leaks()
        for name, reason in data.fitted["left_out"].items():
            if name not in (data.groups, data.time, *findings):
                what = "is constant" if reason == CONSTANT else f"is not a feature: {reason}"
                findings[name] = Finding("columns", "warning", f"column {name} {what}", [name], self._drop(name))
        for name, number in missing.items():
            if number > MOSTLY * len(self.names) and name not in data.fitted["left_out"] and name not in findings:
                share = count_part(number, len(self.names), "values", "is", "are") + " missing"
                fix = f"fill them in, or leave the column out: {self._drop(name)}"
                findings[name] = Finding("missing", "warning", f"column {name}: {share}", [name], fix)
        yield from findings.values()

    def _leaks(self) -> dict[str, Finding]:
        """Return a finding for each column that leaks the target."""
        data, train = self.data, self.data.splits == "train"
        cells = {column["name"]: data.file.cells(column["name"], train) for column in data.fitted["columns"]}
        fix = "if it is known only after the target, leave it out:"
        return {
            name: Finding(
                "leak",
                "error",
                f"column {name} alone determines the target {data.target}",
                [name],
                f"{fix} {self._drop(name)}",
            )
            for name in data._target.find_leaks(cells, data.fitted["columns"], train)
        }

    def _groups(self) -> dict[str, Finding]:
        """Return a finding for each group column, unless groups or times split the table."""
        data = self.data
        if data.groups or data.time:
            return {}
        names = [name for name in data.file.features if name not in data.drop and self._is_in_test_file(name)]
        columns = {name: self.values(name) for name in names}
        return find_groups(columns, self.targets, self.splits)

    def _is_in_test_file(self, name: str) -> bool:
        return self.test_file is None or name in self.test_file.frame

    def _drop(self, name: str) -> str:
        return f"--data.drop {shlex.quote(json.dumps([*self.data.drop, name], ensure_ascii=False))}"


def _comparable(columns: Sequence[Column]) -> NDArray[np.bool_]:
    """Return which features are comparable: target encodings of a training row depend on the fold that it is in."""
    kept = []
    for column in columns:
        encoded = len(column["classes"]) if "encodings" in column else 0
        missing = int(column["missing"])
        kept += [True] * (width(column) - encoded - missing) + [False] * encoded + [True] * missing
    return np.array(kept)
