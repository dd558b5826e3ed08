"""A label file: each row names an image, and its class, its number or its classes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from kindling.data.images.file_column import FileColumn
from kindling.data.images.label_columns import LabelColumn, choose_columns, read_column, read_columns
from kindling.data.images.samples import ImageTask, Sample
from kindling.data.images.scan import find_images
from kindling.data.images.splits import read_split_column
from kindling.data.split_constraints import SplitConstraints
from kindling.data.splitting import LEFT_OUT
from kindling.data.tables.files import read_table
from kindling.data.tables.split_columns import check_names, read_constraints
from kindling.data.tables.table_file import TableFile
from kindling.utils.text import join_names, suggest

if TYPE_CHECKING:
    from pandas import DataFrame

LabelTask = Literal["auto", "classification", "regression", "multilabel"]


@dataclass(frozen=True)
class LabelOptions:
    """How to read a label file.

    Attributes:
        target: Names of the label column, or of the columns with 0 or 1 for each class; empty to find them.
        task: The task; auto decides by the labels.
        missing: Texts that mean a missing value.
        decimal: Decimal sign of ambiguous numbers.
        skip_missing: Whether to leave out rows whose image is missing.
        groups: Name of the group column; without a label file, a pattern, see `groups_in_paths`.
        time: Name of the column of times.
    """

    target: Sequence[str] = ()
    task: LabelTask = "auto"
    missing: Collection[str] = ()
    decimal: str | None = None
    skip_missing: bool = False
    groups: str | None = None
    time: str | None = None

    @property
    def constrained(self) -> bool:
        """Whether groups or times constrain the splits."""
        return self.groups is not None or self.time is not None

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
        constraints: The groups and times of the samples.
        details: The columns of the file that are neither labels nor names nor splits; None if there is no file.
        is_other: Whether the folder is not the one of the given `split.csv`.
    """

    samples: list[Sample]
    task: ImageTask = "classification"
    column: LabelColumn | None = None
    rows: list[int] = field(default_factory=list)
    constraints: SplitConstraints = SplitConstraints(noun="images")  # noqa: RUF009 (it is frozen)
    details: "DataFrame | None" = None
    is_other: bool = False

    def learn(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the state that a data module must save besides the classes, given the samples in their splits."""
        if self.column is None:
            return {} if self.task == "classification" else {"task": self.task}
        splits = np.full(len(self.column.labels), LEFT_OUT, dtype=object)
        splits[self.rows] = [sample.split for sample in samples]
        return {"task": self.task, **self.column.learn(splits)}


def read_labels(
    path: Path, root: Path, options: LabelOptions, fitted: Mapping[str, Any], constrained: bool = False
) -> LabeledImages:
    """Read the labels of the images in a folder.

    Args:
        path: CSV or Parquet file.
        root: The folder.
        options: How to read the file.
        fitted: The fitted state of the data module; empty before training.
        constrained: Whether to read the groups and times.

    Raises:
        ValueError: If the file, or a value in it, can't be used.
    """
    _, images = find_images(root, path)
    frame = read_table(path)
    constraining = (options.groups, options.time)
    if constrained:
        check_names(path, [*frame], options.target, groups=options.groups, time=options.time)
    files = FileColumn(path, frame, images, root, (*options.target, *constraining))
    found = files.find(options.skip_missing)
    split_column = next((name for name in frame if name.lower() == "split" and name not in options.target), None)
    splits = ["train"] * len(frame) if split_column is None else read_split_column(path, frame, split_column)
    others = [name for name in frame if name not in (files.name, split_column, *constraining)]
    names = choose_columns(path, frame, others, options.target, options.missing, fitted)
    if len(names) > 1:
        column = read_columns(path, frame, names, options.task, options.missing)
    else:
        column = read_column(path, names[0], options.task, options.missing, options.decimal, fitted)
    if not fitted:
        column.check(split_column is not None)
    labeled = [None if label is None else image for image, label in zip(found, column.labels, strict=True)]
    constraints = SplitConstraints()
    if constrained:
        known = np.array([image is not None for image in labeled])
        table = TableFile(path, names[0], options.missing, frame)
        constraints = read_constraints(table, options.groups, options.time, known)
    codes = [values.codes for values in (constraints.groups, constraints.times) if values]
    rows = files.first_rows(labeled, [*zip(column.labels, splits, *codes, strict=True)])
    samples = [Sample(str(found[row]), str(column.labels[row]), splits[row]) for row in rows]
    named = replace(constraints, noun="images", names=[*map(str, labeled)]).select(np.array(rows))
    details = frame[[name for name in others if name not in names]].iloc[rows]
    return LabeledImages(samples, column.task, column, rows, named, details)
