"""A target column of classes."""

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Indices
from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.dates import read_days
from kindling.data.tables.leakage import find_leaky_columns
from kindling.data.tables.number_parsing import as_number
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import MISSING_WORD, Column, abbreviate, missing_option, sort_names
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

MAX_CLASSES = 1000
MAX_USUAL_CLASSES = 20  # a column with more distinct values may not contain classes


def check_no_dates(what: str, values: Sequence[object]) -> None:
    """Raise ValueError if most of some values of a target column are dates or times."""
    if any(np.mean(~np.isnan(read_days(values, day_first))) > 0.5 for day_first in (False, True)):
        raise ValueError(
            f"{what} holds dates or times, such as {abbreviate(values[0])}: a model predicts classes or numbers; "
            "replace them with numbers, such as days or minutes"
        )


class ClassTarget:
    """The target column of one file as classes.

    Args:
        table: The file.
        classes: Names of the classes in the training rows, if they are known.
        is_chosen: Whether the user says that the values are classes; then there may be more than 1,000.

    Attributes:
        labels: Class of each row as an index into `names`, -1 where missing, (N,).
        names: Names of the classes in the file.
        known: Which rows have a class, (N,).
        strata: Groups of rows to represent equally in each split, -1 where the target is missing, (N,).
    """

    task: Literal["classification"] = "classification"
    noun = "class"

    def __init__(self, table: TableFile, classes: Sequence[str] = (), is_chosen: bool = False) -> None:
        self.table, self.classes, self.is_chosen = table, classes, is_chosen
        self.labels, self.names = name_cells(table.cells(table.target))
        self.known: NDArray[np.bool_] = self.labels >= 0
        self.strata = self.labels

    def check(self, held_out: Collection[str], given: bool) -> None:
        """Check that there are classes, each with a row for train and each of the splits in `held_out`.

        Raises:
            ValueError: If there is one class, too many, or one with too few rows and the splits are not given.
        """
        labels, names, what = self.labels, self.names, self.table.target_name
        if len(names) < 2:
            if len(names) == 1 and not math.isnan(as_number(names[0])):
                raise ValueError(f"{what} has only one value ({names[0]}); a model needs at least two distinct values")
            found, absent = f"only one class ({names[0]})" if names else "no values", int((labels < 0).sum())
            found += f" and {count_noun(absent, 'row', 'rows')} without one" if names and absent else ""
            raise ValueError(f"{what} has {found}; a classifier needs at least two classes")
        counts = np.bincount(labels[labels >= 0]).tolist()
        few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < 1 + len(held_out)]
        are_numbers = not any(math.isnan(as_number(name)) for name in names)
        are_rare = len(names) > MAX_USUAL_CLASSES and 2 * len(few) > len(names)
        if are_rare or (len(names) > MAX_CLASSES and not self.is_chosen):
            check_no_dates(what, names)
            found = f"{len(names):,} distinct values"
            advice = "add --data.task regression" if are_numbers else "choose another target, or merge values"
            if are_rare:
                found += f" ({len(few):,} of them in fewer than {1 + len(held_out)} rows)"
            else:
                advice += "; if they are classes, add --data.task classification"
            raise ValueError(f"{what} has {found}, too many for classes: {advice}")
        if few and not given:
            regression = ", or add --data.task regression" if are_numbers else ""
            raise ValueError(
                f"train, {' and '.join(held_out)} each need a row of every class, and {what} has too few of "
                f"{join_names(sort_names(few))}: remove these rows, merge classes, or split the rows with "
                f"--data.split{regression}"
            )

    def learn(self, splits: NDArray[np.object_], held_out: Collection[str]) -> dict[str, Any]:
        """Learn the classes from the training rows, warn about oddities, and return the state to save."""
        self.classes = sort_names(self.names[label] for label in np.unique(self.labels[splits == "train"]))
        self._warn_oddities(splits, held_out)
        return {"classes": self.classes}

    def encode(self, rows: NDArray[np.bool_]) -> Indices:
        """Return the class of some rows as an index into the learned classes, int64 (n,).

        Raises:
            ValueError: If there are other classes.
        """
        labels, names, what = self.labels[rows], self.names, self.table.target_name
        positions = {name: position for position, name in enumerate(self.classes)}
        if unknown := [names[label] for label in np.unique(labels) if names[label] not in positions]:
            raise ValueError(
                f"{what} has classes without training rows: {join_names(unknown)}; the model knows "
                f"{join_names(self.classes)}"
            )
        return np.array([positions.get(name, -1) for name in names])[labels]

    def for_encoding(self, rows: NDArray[np.bool_], training: NDArray[np.bool_]) -> Indices:
        """Return values for target encodings: the classes of some rows, -1 for those not in `training`, (n,)."""
        return np.where(training[rows], self.encode(rows), -1)

    def find_leaks(self, cells: Mapping[str, Cells], columns: Sequence[Column], rows: NDArray[np.bool_]) -> list[str]:
        """Return the columns that determine the class, given their cells in some rows."""
        return find_leaky_columns(cells, columns, self.encode(rows))

    def _warn_oddities(self, splits: NDArray[np.object_], held_out: Collection[str]) -> None:
        """Warn about classes that may mean missing, that are absent in a split, or that differ only in case."""
        names = {
            split: {self.names[label] for label in np.unique(self.labels[splits == split])}
            for split in ("train", *held_out)
        }
        what = self.table.target_name
        if words := [name for name in sort_names(names["train"]) if MISSING_WORD.fullmatch(name)]:
            option = missing_option([*self.table.missing, *words])
            noun, subject = ("class", "it means") if len(words) == 1 else ("classes", "they mean")
            logger.warning(f"{what} has the {noun} {join_names(words)}: if {subject} missing, {option}")
        for split in held_out:
            if absent := names["train"] - names[split]:
                logger.warning(f"{split} has no rows of {join_names(sort_names(absent))}")
        spellings = Counter(name.lower() for name in names["train"])
        if alike := [name for name in sort_names(names["train"]) if spellings[name.lower()] > 1]:
            logger.warning(
                f"{what} has classes that differ only in case: {join_names(alike)}; use one spelling for the same class"
            )
