"""The columns of a table that constrain its splits: groups of rows to keep together, and the time of each row."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kindling.data.group_splits import find_crossing, hold_out_groups
from kindling.data.splitting import fraction_of
from kindling.data.tables.cells import Cells, name_cells
from kindling.data.tables.file_style import read_style
from kindling.data.tables.kinds import learn_kind
from kindling.data.tables.reading import adapt_columns, as_numbers, missing_values
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import Column, Floats, Indices, abbreviate
from kindling.data.time_splits import find_older, hold_out_newest
from kindling.utils.text import suggest


class SplitColumns:
    """The group and the time of the rows of one file; false if there is neither.

    Args:
        table: The file.
        groups: Name of the column of groups; None if there is none.
        time: Name of the column of dates, times or numbers; None if there is none.
        known: Which rows have a target and so belong to a split, (N,).
        training: The columns of the training file, if this is another one: times are read in the same format.

    Raises:
        ValueError: If there is no such column, or a row with a target has no group or time.
    """

    def __init__(
        self,
        table: TableFile,
        groups: str | None,
        time: str | None,
        known: NDArray[np.bool_],
        training: "SplitColumns | None" = None,
    ) -> None:
        self.table, self.groups, self.time, self.known = table, groups, time, known
        self.format: Column = {}
        self._cells: dict[str, Cells] = {}
        for option, name in {"groups": groups, "time": time}.items():
            if name is not None:
                self._cells[name] = self._read(option, name)
        if groups:
            self.codes, self.names = name_cells(self._cells[groups])
        if time:
            self.times = self._read_times(time, training.format if training else None)

    def __bool__(self) -> bool:
        return bool(self._cells)

    def hold_out(
        self, rows: Indices, labels: Indices, split: str, size: int | float, seed: int, are_classes: bool
    ) -> NDArray[np.bool_]:
        """Return which of some rows, with their classes or other labels (n,), to hold out for a split, (n,).

        Raises:
            ValueError: If there are both groups and times, or too few of them.
        """
        if self.groups and self.time:
            raise ValueError(
                f"--data.groups {self.groups} and --data.time {self.time} can't both choose the splits: leave one out, "
                "or split the rows with --data.split"
            )
        fraction = fraction_of(size, len(rows), "rows", split)
        name = f"column {self.groups or self.time} of {self.table.path}"
        try:
            if self.groups:
                return hold_out_groups(self.codes[rows], labels, fraction, seed, are_classes)
            return hold_out_newest(self.times[rows], fraction)
        except ValueError as error:
            raise ValueError(f"{name}: of the {len(rows):,} rows left for `{split}_split`, {error}") from error

    def check(self, splits: NDArray[np.object_]) -> None:
        """Check the splits of the rows, (N,): no group is in two, and nothing held out is older than a training row.

        Raises:
            ValueError: If not.
        """
        rows = np.flatnonzero(self.known)
        if self.groups and (found := find_crossing(self.codes[rows], splits[rows])):
            one, other = rows[[*found]].tolist()
            raise ValueError(
                f"{self._place(self.groups, one)} is in {splits[one]} (row {one}, counted from 0) and in "
                f"{splits[other]} (row {other}): a group must be in one split"
            )
        if self.time and (found := find_older(self.times[rows], splits[rows])):
            one, other = rows[[*found]].tolist()
            raise _older(self._place(self.time, one), f"{splits[one]} row {one}", self._place(self.time, other), other)

    def check_classes(self, labels: Indices, names: Sequence[str], splits: NDArray[np.object_]) -> None:
        """Check that no class first occurs later than the training rows.

        Args:
            labels: Class of each row as an index into `names`, -1 where missing, (N,).
            names: Names of the classes.
            splits: The split of each row, (N,).

        Raises:
            ValueError: If one does.
        """
        new = np.flatnonzero(self.known & ~np.isin(labels, labels[splits == "train"]))
        if self.time and len(new):
            first = int(new[self.times[new].argmin()])
            raise ValueError(
                f"{self._place(self.time, first)} (row {first}, counted from 0) is the first of class "
                f"{names[labels[first]]}, newer than all training rows: hold out fewer rows with --data.val_split and "
                "--data.test_split, or remove or merge the class"
            )

    def check_test(self, test: "SplitColumns", splits: NDArray[np.object_]) -> None:
        """Check the rows of a test file against these ones and their splits (N,), see `check`.

        Raises:
            ValueError: If not.
        """
        rows = np.flatnonzero(test.known)
        if self.groups and test.groups:
            used = {self.names[code]: row for row, code in enumerate(self.codes.tolist()) if self.known[row]}
            for row in rows.tolist():
                if (name := test.names[test.codes[row]]) in used:
                    raise ValueError(
                        f"{test._place(test.groups, row)} is in test in row {row} (counted from 0) and in "
                        f"{splits[used[name]]} in row {used[name]} of {self.table.path}: a group must be in one split"
                    )
        if self.time and test.time:
            train = np.flatnonzero(splits == "train")
            newest, oldest = int(train[self.times[train].argmax()]), int(rows[test.times[rows].argmin()])
            if test.times[oldest] < self.times[newest]:
                raise _older(
                    test._place(test.time, oldest), f"test row {oldest}", self._place(self.time, newest), newest
                )

    def _read(self, option: str, name: str) -> Cells:
        """Return the cells of a column, after checking that it exists and is complete."""
        if name == self.table.target:
            raise ValueError(f"`{option}`: {name} is the target: choose another column")
        if name not in self.table.features:
            raise ValueError(f"`{option}`: {self.table.path} has no column {name}{suggest(name, self.table.features)}")
        cells = self.table.cells(name)
        self._check_complete(option, name, cells.codes < 0)
        return cells

    def _check_complete(self, option: str, name: str, missing: NDArray[np.bool_], reason: str = "is empty") -> None:
        rows = np.flatnonzero(missing & self.known)
        if len(rows):
            place, more = self.table.path, f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
            raise ValueError(
                f"column {name} of {place}: row {rows[0]} (counted from 0) {reason}{more}: fill it in, or remove the "
                f"rows, as --data.{option} needs a value in each"
            )

    def _read_times(self, name: str, column: Column | None) -> Floats:
        """Return the time of each row as days or a number, NaN where the row has no target, (N,)."""
        cells = {each: self.table.cells(each) for each in self.table.frame}
        if column is None:
            found = learn_kind(name, cells[name], read_style(cells, self.table.separator), [*self.table.missing])
            if found is None:
                example = abbreviate(self._cells[name].values[0])
                raise ValueError(
                    f"column {name} of {self.table.path} holds no dates, times or numbers, such as {example}: "
                    "--data.time needs values such as 2024-12-31 23:59"
                )
            self.format, times = found
        else:
            [self.format] = adapt_columns([column], cells, self.table.separator, self.table.path)
            times, _ = as_numbers(cells[name].select(drop=missing_values(column)), self.format)
        unread = np.isnan(times) & self.known
        if unread.any():
            value = abbreviate(cells[name].values[cells[name].codes[unread.argmax()]])
            self._check_complete("time", name, unread, f"holds {value}, not a {self.format['kind']}")
        return times

    def _place(self, name: str, row: int) -> str:
        """Return the column and the value of a row for a message."""
        value = abbreviate(self._cells[name].values[self._cells[name].codes[row]])
        return f"column {name} of {self.table.path}: {value}"


def _older(oldest: str, where: str, newest: str, row: int) -> ValueError:
    value = newest.rpartition(": ")[2]
    return ValueError(
        f"{oldest} ({where}, counted from 0) is older than {value} (training row {row}): test and validation rows must "
        "not be older than training rows"
    )


def reasons(groups: str | None, time: str | None) -> Mapping[str, str]:
    """Return why columns that constrain the splits are no features, by their names."""
    return {name: "defines the splits" for name in (groups, time) if name is not None}
