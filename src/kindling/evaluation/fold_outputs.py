"""Outputs of the tests of the folds of a cross-validation: saved by each fold, and joined in the order of the data."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.datamodule import SPLITS
from kindling.models.many_classes import TopClasses
from kindling.runs.folders import REPEAT_FILE
from kindling.runs.repeats import OUTPUTS
from kindling.training import TestOutputCollector
from kindling.training.output_collector import Outputs
from kindling.utils.files import atomic_write


class Fold(NamedTuple):
    """The test of one fold.

    Attributes:
        outputs: See `TestOutputCollector`, shape (n, ...); the parts of `TopClasses` as a list.
        targets: Shape (n, ...).
        rows: Names of the samples.
    """

    outputs: Tensor | list[Tensor]
    targets: Tensor
    rows: Sequence[str]


def save_outputs(run: Path, collected: TestOutputCollector, data: LightningDataModule | None) -> None:
    """Save what the test of a run has collected, if the run belongs to a repeat and its model has a report.

    Without a `split.csv`, which a module of the user's own need not write, the folds can't be read again together.
    """
    outputs, targets = collected.outputs, collected.targets
    if outputs is None or targets is None or not isinstance(data, BaseDataModule) or not (run / "split.csv").exists():
        return
    rows = [*map(str, data.tested_rows())]
    if (run.parent.parent / REPEAT_FILE).exists() and len(rows) == len(targets):  # not only some batches
        with atomic_write(run / OUTPUTS) as path:
            stored = [*outputs] if isinstance(outputs, TopClasses) else outputs
            torch.save({"outputs": stored, "targets": targets, "rows": rows}, path)


def join_outputs(parts: Sequence[Tensor | list[Tensor]], order: Tensor) -> Outputs:
    """Return the stored outputs of several tests in one order, by index (N,)."""
    tops = [TopClasses(*part) for part in parts if isinstance(part, list)]
    if tops:
        return TopClasses.cat(tops).select(order)
    return torch.cat([part for part in parts if isinstance(part, Tensor)])[order]


def write_single_split(source: Path, path: Path, split: str) -> None:
    """Write a copy of the `split.csv` of a run, in which all samples are in one split."""
    with source.open(encoding="utf-8", newline="") as file, path.open("w", encoding="utf-8", newline="") as other:
        header, *rows = csv.reader(file)
        place = header.index("split")
        others = ([*row[:place], split if row[place] in SPLITS else row[place], *row[place + 1 :]] for row in rows)
        csv.writer(other).writerows([header, *others])
