"""A file of labels: each row names an image, and its class, its number or its classes."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from kindling.data.datamodule import SPLITS
from kindling.data.images.file_column import FileColumn
from kindling.data.images.folder import SPLIT_NAMES, ImageTask, Sample, check_folder, find_samples, read_split
from kindling.data.images.label_columns import LabelColumn, choose_columns, read_column, read_columns
from kindling.data.images.scan import list_images, warn_unused
from kindling.data.tables.cells import name_cells, read_cells
from kindling.data.tables.files import read_table
from kindling.data.tables.splits import LEFT_OUT
from kindling.utils.text import join_names, suggest

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)

LabelTask = Literal["auto", "classification", "regression", "multilabel"]


@dataclass(frozen=True)
class LabelOptions:
    """How to read a file of labels.

    Attributes:
        target: Names of the column of labels, or of the columns with 0 or 1 for each class; empty to find them.
        task: The task; auto decides by the labels.
        missing: Texts that mean a missing value.
        decimal: Decimal sign of ambiguous numbers.
        skip_missing: Whether to leave out rows whose image is missing.
    """

    target: Sequence[str] = ()
    task: LabelTask = "auto"
    missing: Collection[str] = ()
    decimal: str | None = None
    skip_missing: bool = False

    def __post_init__(self) -> None:
        if self.task not in (names := get_args(LabelTask)):
            raise ValueError(f"task must be {join_names(names)}, got {self.task}{suggest(self.task, names)}")


@dataclass(frozen=True)
class LabeledImages:
    """Images with their labels, and the task that these are for.

    Attributes:
        samples: The images; those without a split are in train.
        task: The task.
        column: The labels as the file has them; None for class folders and a `split.csv`.
        rows: The row of each sample in the file.
    """

    samples: list[Sample]
    task: ImageTask = "classification"
    column: LabelColumn | None = None
    rows: list[int] = field(default_factory=list)

    def learn(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return what a data module must save besides the classes, given the samples in their splits."""
        if self.column is None:
            return {} if self.task == "classification" else {"task": self.task}
        splits = np.full(len(self.column.labels), LEFT_OUT, dtype=object)
        splits[self.rows] = [sample.split for sample in samples]
        return {"task": self.task, **self.column.learn(splits)}


def find_labeled(
    root: Path, labels: Path | None, split: Path | None, options: LabelOptions, fitted: Mapping[str, Any]
) -> LabeledImages:
    """List the images of a folder with their labels.

    Args:
        root: The folder.
        labels: File of labels; None for class folders.
        split: A `split.csv` with labels and splits; it comes before `labels`.
        options: How to read the file of labels.
        fitted: What the data module has learned; empty before training. A trained model may be evaluated on a different
            folder: without a test split, all of its images are in test.

    Raises:
        ValueError: If there are no labels for the task of a trained model, or a file can't be used.
    """
    check_folder(root)
    is_other = False
    if split is not None:
        task, samples = read_split(split)
        missing = [sample.file for sample in samples if not (root / sample.file).exists()]
        is_other = bool(fitted) and len(missing) == len(samples)
        if missing and not is_other:
            raise ValueError(f"{split} lists files that are not in {root}: {join_names(missing, 3)}")
        if not missing:
            if labels and not fitted:
                logger.warning(f"{labels} is not read: {split} has the labels and the splits")
            return LabeledImages(samples, task)
        logger.warning(f"{root} is not the folder of {split}: images outside of split folders are used for testing")
    if labels is None and fitted.get("task", "classification") != "classification":
        raise ValueError(f"the model needs a file of labels for the images in {root}: add --data.labels FILE")
    labeled = read_labels(labels, root, options, fitted) if labels else LabeledImages(find_samples(root))
    if is_other and not any(sample.split == "test" for sample in labeled.samples):
        return replace(labeled, samples=[sample._replace(split="test") for sample in labeled.samples])
    return labeled


def read_labels(path: Path, root: Path, options: LabelOptions, fitted: Mapping[str, Any]) -> LabeledImages:
    """Read the labels of the images in a folder.

    Args:
        path: CSV or Parquet file.
        root: The folder.
        options: How to read the file.
        fitted: What the data module has learned; empty before training.

    Raises:
        ValueError: If the file, or a value in it, can't be used.
    """
    images, unused = list_images(root)
    warn_unused(root, unused)
    frame = read_table(path)
    files = FileColumn(path, frame, images, root, options.target)
    found = files.find(options.skip_missing)
    split_column = next((name for name in frame if name.lower() == "split" and name not in options.target), None)
    splits = ["train"] * len(frame) if split_column is None else _read_splits(path, frame, split_column)
    others = [name for name in frame if name not in (files.name, split_column)]
    names = choose_columns(path, frame, others, options.target, options.missing, fitted)
    if len(names) > 1:
        column = read_columns(path, frame, names, options.task, options.missing)
    else:
        column = read_column(path, names[0], options.task, options.missing, options.decimal, fitted)
    if not fitted:
        column.check(split_column is not None)
    labeled = [None if label is None else image for image, label in zip(found, column.labels, strict=True)]
    rows = files.first_rows(labeled, [*zip(column.labels, splits, strict=True)])
    samples = [Sample(str(found[row]), str(column.labels[row]), splits[row]) for row in rows]
    return LabeledImages(samples, column.task, column, rows)


def _read_splits(path: Path, frame: "DataFrame", name: str) -> list[str]:
    """Return the split of each row."""
    codes, names = name_cells(read_cells(frame[name]))
    splits = [SPLIT_NAMES.get(each.lower()) for each in names]
    for row, code in enumerate(codes.tolist()):
        if code < 0 or splits[code] is None:
            found = names[code] if code >= 0 else "nothing"
            raise ValueError(
                f"{path}: row {row} (counted from 0) has {found} in the column {name}, not {', '.join(SPLITS)}"
            )
    return [str(splits[code]) for code in codes.tolist()]
