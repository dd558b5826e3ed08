"""The columns of a label file that hold the labels: one of classes, numbers or lists of classes, or one a class."""

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.images.samples import ImageTask
from kindling.data.images.targets import SEPARATOR
from kindling.data.tables.cells import Cells, read_cells
from kindling.data.tables.class_target import MAX_USUAL_CLASSES
from kindling.data.tables.files import locate_row
from kindling.data.tables.number_parsing import as_number
from kindling.data.tables.number_target import NumberTarget
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.target import Target, choose_target, known_target
from kindling.data.tables.values import abbreviate, as_name, sort_names
from kindling.utils.text import count_noun, join_names, suggest

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)

SEPARATORS = "|;,"  # between several classes in a cell, in this order
BINARY = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}  # in a column of one class


@dataclass(frozen=True)
class LabelColumn:
    """The labels in a file.

    Attributes:
        labels: The label of each row as in `split.csv`; None if it has none.
        task: The task that they are for.
        classes: The classes; empty for numbers.
        target: The target column; None for several classes per image.
        separator: Sign between several classes in a cell, if there is one.
    """

    labels: list[str | None]
    task: ImageTask
    classes: list[str] = field(default_factory=list)
    target: Target | None = None
    separator: str | None = None

    def check(self, has_splits: bool) -> None:
        """Raise ValueError if nothing can be learned from these labels."""
        if self.target is not None:
            self.target.check(("test", "val"), given=has_splits or self.task == "classification")

    def learn(self, splits: NDArray[np.object_]) -> dict[str, Any]:
        """Return the state needed to read another file, and warn about oddities, given the split of each row (N,)."""
        if self.target is None:
            return {"separator": self.separator}
        learned = self.target.learn(splits, ())
        return {} if self.task == "classification" else learned


def choose_columns(
    path: Path,
    frame: "DataFrame",
    names: Sequence[str],
    target: Sequence[str],
    missing: Collection[str],
    fitted: Mapping[str, Any],
) -> list[str]:
    """Return the label columns: one, or several with 0 or 1 for each class.

    Args:
        path: The file, for messages.
        frame: Its rows.
        names: Columns to choose from.
        target: The columns that the user has chosen.
        missing: Texts that mean a missing value.
        fitted: The fitted state of the data module.
    """
    for name in target:
        if name not in frame:
            raise ValueError(f"{path} has no column {name}{suggest(name, frame) or '.'} It has {join_names([*frame])}")
    known = [name for name in names if name == (fitted.get("target") or {}).get("name")]
    if target or known:
        return [*target] or known
    if not names:
        raise ValueError(f"{path} has no label column, only {join_names([*frame])}: add one")
    if len(names) > 1 and not all(_is_binary(read_cells(frame[name], missing)) for name in names):
        choices = " or ".join(f"--data.target {shlex.quote(name)}" for name in names)
        raise ValueError(f"{path} has several columns that may be labels: choose with {choices}")
    return [*names]


def read_columns(
    path: Path, frame: "DataFrame", names: Sequence[str], task: str, missing: Collection[str]
) -> LabelColumn:
    """Read several columns, each with 0 or 1 for a class; rows with a text in `missing` have no label."""
    if task not in ("auto", "multilabel"):
        raise ValueError(f"--data.task {task} needs one label column, and {path} has {len(names)}: set --data.target")
    has_class = np.zeros((len(frame), len(names)), dtype=bool)
    known, empty = np.ones(len(frame), dtype=bool), 0
    for position, name in enumerate(_checked(path, names)):
        is_empty = read_cells(frame[name]).codes < 0
        cells = read_cells(frame[name], missing)
        values = [BINARY.get(as_name(value).lower()) for value in cells.values]
        if None in values:
            code = values.index(None)
            row, value = int(np.flatnonzero(cells.codes == code)[0]), abbreviate(cells.values[code])
            raise ValueError(f"{path}: {locate_row(path, frame, row)} has {value} in the column {name}, not 0 or 1")
        has_class[:, position] = np.array([*values, False], dtype=bool)[cells.codes]
        known &= (cells.codes >= 0) | is_empty
        empty += int(is_empty.sum())
    if not known.any():
        raise ValueError(f"{path} has no row with 0 or 1 in each of {join_names(names)}")
    if left_out := int((~known).sum()):
        logger.warning(f"{path}: left out {count_noun(left_out, 'row', 'rows')} whose label columns are not all 0 or 1")
    if empty:
        logger.warning(f"{path}: {count_noun(empty, 'empty cell counts', 'empty cells count')} as 0")
    if task == "auto":
        logger.info(f"{path}: {len(names)} columns of 0 and 1, so several classes per image (multilabel)")
    texts = [SEPARATOR.join(np.array(names, dtype=object)[row]) for row in has_class]
    labels = [text if has_label else None for text, has_label in zip(texts, known, strict=True)]
    return LabelColumn(labels, "multilabel", [*names])


def read_column(
    path: Path, name: str, task: Any, missing: Collection[str], decimal: str | None, fitted: Mapping[str, Any]
) -> LabelColumn:
    """Read a column of classes, of numbers, or of lists of classes; once trained, for the task of the model.

    Args:
        path: The file.
        name: Name of the column.
        task: The task; auto decides by the values.
        missing: Texts that mean a missing value.
        decimal: Decimal sign of ambiguous numbers.
        fitted: The fitted state of the data module; empty before training.
    """
    task = fitted.get("task", "classification") if fitted else task
    table = TableFile(path, name, missing)
    cells = table.cells(name)
    names = [*map(as_name, cells.values)]
    separator: str | None = fitted.get("separator") or find_separator(cells, task == "multilabel")
    if task == "auto" and separator:
        several = int(cells.counts[[separator in each for each in names]].sum())
        rows = count_noun(several, "row of", "rows of")
        logger.info(f"{rows} {path} list several classes in {name}, so multilabel (--data.task classification for one)")
        task = "multilabel"
    if task == "multilabel":
        return _read_lists(table, separator)
    target = known_target(table, fitted) if fitted.get("target") else choose_target(table, task, decimal)
    table.warn_unlabelled(target.known)
    if isinstance(target, NumberTarget):
        numbers = [np.format_float_positional(number, trim="-") for number in target.numbers]
        labels = [number if known else None for number, known in zip(numbers, target.known, strict=True)]
        return LabelColumn(labels, "regression", target=target)
    are_numbers = not any(map(np.isnan, map(as_number, names)))
    if task == "auto" and (len(names) <= MAX_USUAL_CLASSES or not are_numbers):
        hint = "--data.task regression for numbers" if are_numbers else "classification"
        if splits_at := find_separator(cells, are_lists=True):
            hint = f"--data.task multilabel splits them at {splits_at}"
        logger.info(f"{path}: {name} has {len(target.names):,} different values, so classes ({hint})")
    texts: list[str | None] = [*target.names, None]
    return LabelColumn([texts[label] for label in target.labels], "classification", sort_names(target.names), target)


def _read_lists(table: TableFile, separator: str | None) -> LabelColumn:
    """Read the target as lists of classes; an empty cell is an image that has none, a missing value is left out."""
    path, name = table.path, table.target
    cells = read_cells(table.frame[name])
    values = [*map(as_name, cells.values)]
    known = [value not in table.missing for value in values]
    lists = [
        [*dict.fromkeys(filter(None, map(str.strip, value.split(separator) if separator else [value])))]
        for value in values
    ]
    listed = {each for one, is_known in zip(lists, known, strict=True) if is_known for each in one}
    classes = sort_names(_checked(path, listed))
    if not classes:
        raise ValueError(f"column {name} of {path} has no values")
    if empty := int((cells.codes < 0).sum()):
        number = count_noun(empty, "row", "rows")
        logger.warning(f"{path}: {number} without {name}: taken as images that have none of the classes")
    table.warn_unlabelled(np.array([*known, True])[cells.codes])
    texts = [*(SEPARATOR.join(one) if is_known else None for one, is_known in zip(lists, known, strict=True)), ""]
    return LabelColumn([texts[code] for code in cells.codes], "multilabel", classes, separator=separator)


def find_separator(cells: Cells, are_lists: bool) -> str | None:
    """Return the sign between several classes in the cells of a column; None if there is none.

    It may be part of a name, and a comma a decimal sign: it counts if the classes are fewer than the different cells,
    and a comma only if these are not numbers. If it is known that the cells are lists, only a comma is doubtful.
    """
    names = [*map(as_name, cells.values)]
    for separator in SEPARATORS:
        if any(separator in name for name in names):
            if are_lists and separator != ",":
                return separator
            classes = {part.strip() for name in names for part in name.split(separator)}
            are_numbers = any(2 * np.sum(~np.isnan(cells.quantities(sign)[0])) > len(names) for sign in ".,")
            if len(classes) < len(names) and not (separator == "," and are_numbers):
                return separator
    return None


def _is_binary(cells: Cells) -> bool:
    return {as_name(value).lower() for value in cells.values} <= BINARY.keys()


def _checked(path: str | Path, classes: Collection[str]) -> Collection[str]:
    """Return the names of classes; raise ValueError for one that `split.csv` can't hold."""
    if wrong := [name for name in classes if SEPARATOR in name or not name.strip()]:
        raise ValueError(f"{path}: rename the class {wrong[0]}, as {SEPARATOR} separates classes in split.csv")
    return classes
