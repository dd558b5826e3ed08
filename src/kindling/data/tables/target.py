"""The target column of a table: whether it holds classes or numbers."""

import logging
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from kindling.data.tables.cells import Cells
from kindling.data.tables.class_target import MAX_CLASSES, MAX_USUAL_CLASSES, ClassTarget, check_no_dates
from kindling.data.tables.column_types import learn_kind, learn_number, warn_ambiguous
from kindling.data.tables.file_style import FileStyle, read_style
from kindling.data.tables.number_target import NumberTarget, not_a_number
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import MISSING_WORD, Column, as_name
from kindling.utils.text import join_names, suggest

logger = logging.getLogger(__name__)

Task = Literal["auto", "classification", "regression"]
Target = ClassTarget | NumberTarget

FRACTION = re.compile(r"\d[.,]\d")
ROWS_PER_CLASS = 10  # integers with fewer rows each, on average, are probably not classes
MIN_CLASS_ROWS = 3  # one for training, validation and test each


def known_target(table: TableFile, fitted: Mapping[str, Any]) -> Target:
    """Return the target of a file, read as in training.

    Args:
        table: The file.
        fitted: The fitted state of the data module.

    Raises:
        ValueError: If it is another column than in training.
    """
    if (column := fitted.get("target")) is not None:
        if column["name"] != table.target:
            raise ValueError(f"the model predicts {column['name']}: set --data.target {column['name']}")
        return NumberTarget(table, column)
    return ClassTarget(table, fitted["classes"])


def check_target_task(task: str, trained: str) -> None:
    """Raise ValueError if a task is chosen that a checkpoint was not trained for."""
    if task not in ("auto", trained):
        raise ValueError(
            f"--data.task {task}: the checkpoint was trained for {trained}; start a new run without --ckpt_path"
        )


def choose_target(table: TableFile, task: Task, decimal: str | None = None) -> Target:
    """Return the target of a training file, whose task `auto` decides by its values.

    Numbers are classes if they are few, unless they have fractions and few rows each; or if they are whole and occur in
    several rows each.

    Args:
        table: The training file.
        task: The task.
        decimal: Decimal sign of the file if its numbers are ambiguous.

    Raises:
        ValueError: If there is no such task, or it is regression and a value is not a number.
    """
    if task not in get_args(Task):
        raise ValueError(f"task must be {join_names(get_args(Task))}, got {task}{suggest(task, get_args(Task))}")
    classes = ClassTarget(table, is_chosen=task == "classification")
    are_few = len(classes.names) <= MAX_USUAL_CLASSES and not any(map(FRACTION.search, classes.names))
    if task == "classification" or (task == "auto" and are_few):
        return classes
    cells = {name: table.cells(name) for name in (*table.features, table.target)}
    style = read_style(cells, table.separator, decimal)
    distinct, are_continuous = _count_numbers(cells[table.target], style.decimal_of(table.target) or ".")
    may_be_numbers = task == "regression" or are_continuous
    column = _learn_column(table, cells[table.target], style, task) if may_be_numbers else None
    if task == "auto" and (column or distinct > MAX_USUAL_CLASSES):
        found, other, noun = ("classes", "regression", "numbers")
        if column:
            found, other, noun = ("regression", "classification", "classes")
        logger.warning(f"{table.target}: {distinct:,} distinct numbers, so {found} (--data.task {other} for {noun})")
    if column is None:
        return classes
    warn_ambiguous([column], cells, style)
    return NumberTarget(table, column)


def _count_numbers(cells: Cells, decimal: str) -> tuple[int, bool]:
    """Return the number of distinct numbers, 0 if most values are none; and whether they are too many for classes."""
    numbers = cells.quantities(decimal)[0]
    known = ~np.isnan(numbers)
    distinct, rows = len(np.unique(numbers[known])), int(cells.counts[known].sum())
    if 2 * rows < np.count_nonzero(cells.codes >= 0):
        return 0, False
    have_fractions = bool((numbers[known] % 1).any())
    _, positions = np.unique(numbers[known], return_inverse=True)
    fewest = np.bincount(positions, cells.counts[known]).min(initial=rows)  # rows of the rarest number
    are_rare = ROWS_PER_CLASS * distinct > rows
    if distinct <= MAX_USUAL_CLASSES:
        return distinct, have_fractions and are_rare
    return distinct, have_fractions or distinct > MAX_CLASSES or are_rare or fewest < MIN_CLASS_ROWS


def _learn_column(table: TableFile, cells: Cells, style: FileStyle, task: Task) -> Column | None:
    """Return how the numbers of a target column are written; None if they are no numbers and the task is auto."""
    learn = learn_number if task == "regression" else learn_kind
    found = learn(table.target, cells, style, [*table.missing])
    if found is not None and found[0]["kind"] == "number":
        return found[0]
    if task == "auto":
        return None
    numbers = cells.quantities(style.decimal_of(table.target) or ".")[0]
    if np.isnan(numbers).any():
        check_no_dates(table.target_name, cells.values)
    texts = [
        np.isnan(number) and not MISSING_WORD.fullmatch(as_name(value))
        for number, value in zip(numbers, cells.values, strict=True)
    ]
    rows = np.flatnonzero(np.array([*texts, False])[cells.codes])
    if not len(rows):
        reason = "has no values" if np.isnan(numbers).all() else "has numbers in several units: convert them to one"
        raise ValueError(f"{table.target_name} {reason}")
    raise not_a_number(table, cells, rows[0], "not a number, which --data.task regression needs")
