"""Constraints of splits: groups of samples to keep together, and the time of each sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Indices
from kindling.data.group_splits import find_crossing, hold_out_groups, join_groups
from kindling.data.time_splits import find_older, hold_out_newest


@dataclass(frozen=True)
class SplitValues:
    """The group or the time of each sample.

    Attributes:
        option: The option that defines them, for messages, such as "--data.groups patient".
        source: Where they are, for messages, such as "column patient of visits.csv".
        codes: Index into `texts` for each sample, -1 for samples in no split, (N,).
        texts: The different groups or times as text.
        numbers: Time of each sample, NaN for samples in no split, (N,); None for groups.
    """

    option: str
    source: str
    codes: Indices
    texts: Sequence[str]
    numbers: NDArray[np.floating[Any]] | None = None

    def describe(self, sample: int) -> str:
        """Return where the value of a sample is, and the value, for messages."""
        return f"{self.source}: {self.texts[self.codes[sample]]}"

    def select(self, samples: Indices) -> "SplitValues":
        """Return the values of some samples."""
        return replace(self, codes=self.codes[samples], numbers=None if self.numbers is None else self.numbers[samples])


@dataclass(frozen=True)
class SplitConstraints:
    """The groups and the times of samples; false if there are neither.

    Attributes:
        groups: The groups; None if there are none.
        times: The times; None if there are none.
        noun: What the samples are, in the plural.
        path: File of the samples, for messages.
        names: Name of each sample, for messages; by default its row.
    """

    groups: SplitValues | None = None
    times: SplitValues | None = None
    noun: str = "rows"
    path: str | Path = ""
    names: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.times)

    def select(self, samples: Indices) -> "SplitConstraints":
        """Return the constraints of some samples."""
        groups, times = (values and values.select(samples) for values in (self.groups, self.times))
        names = [self.names[sample] for sample in samples.tolist()] if self.names else ()
        return replace(self, groups=groups, times=times, names=names)

    def keep_together(self, copies: Indices) -> "SplitConstraints":
        """Return the constraints with groups joined if they share a copy, given what each sample (N,) is a copy of."""
        assert self.groups is not None
        return replace(self, groups=replace(self.groups, codes=join_groups(self.groups.codes, copies), texts=()))

    def hold_out(
        self, samples: Indices, labels: Indices, split: str, fraction: float, seed: int, keep_labels: bool
    ) -> NDArray[np.bool_]:
        """Return which of some samples, with their classes or other labels (n,), to hold out for a split, (n,).

        Raises:
            ValueError: If there are both groups and times, or too few of them.
        """
        if self.groups and self.times:
            raise ValueError(
                f"{self.groups.option} and {self.times.option} can't both choose the splits: leave one out, or split "
                f"the {self.noun} with --data.split"
            )
        try:
            if self.groups:
                return hold_out_groups(self.groups.codes[samples], labels, fraction, seed, keep_labels)
            return hold_out_newest(self._times[samples], fraction)
        except ValueError as error:
            [source] = (values.source for values in (self.groups, self.times) if values)
            raise ValueError(
                f"{source}: of the {len(samples):,} {self.noun} left for `{split}_split`, {error}"
            ) from error

    def check(self, splits: NDArray[np.object_]) -> None:
        """Raise ValueError if given splits, (N,), divide a group, or hold out what is older than a training sample."""
        if self.groups and (found := find_crossing(self.groups.codes, splits)):
            one, other = found
            raise _crossing(
                self.groups.describe(one), splits[one], self.place(one), splits[other], self.place(other, short=True)
            )
        if self.times and (found := find_older(self._times, splits)):
            one, other = found
            raise self._older(self.times.describe(one), f"{splits[one]} {self.place(one)}", other)

    def check_classes(self, labels: Indices, names: Sequence[str], splits: NDArray[np.object_]) -> None:
        """Raise ValueError if a class first occurs later than the training samples.

        Labels are indices into the names of the classes, -1 where missing, (N,).
        """
        new = np.flatnonzero((labels >= 0) & ~np.isin(labels, labels[splits == "train"]))
        if self.times and len(new):
            first = int(new[self._times[new].argmin()])
            raise ValueError(
                f"{self.times.describe(first)} ({self.place(first)}) is the first of class {names[labels[first]]}, "
                f"newer than all training {self.noun}: hold out fewer {self.noun} with --data.val_split and "
                "--data.test_split, or remove or merge the class"
            )

    def check_test(self, test: "SplitConstraints", splits: NDArray[np.object_]) -> None:
        """Raise ValueError if a group is also in a test file, or a row of it is older than a training row.

        `splits` are those of the rows of this file, (N,).
        """
        if self.groups and test.groups:
            used = {self.groups.texts[code]: row for row, code in enumerate(self.groups.codes.tolist()) if code >= 0}
            for row in np.flatnonzero(test.groups.codes >= 0).tolist():
                if (same := used.get(test.groups.texts[test.groups.codes[row]])) is not None:
                    place = f"{self.place(same, short=True)} of {self.path}"
                    raise _crossing(test.groups.describe(row), "test", test.place(row), splits[same], place)
        if self.times and test.times:
            train = np.flatnonzero(splits == "train")
            newest, oldest = int(train[self._times[train].argmax()]), int(np.nanargmin(test._times))
            if test._times[oldest] < self._times[newest]:
                raise self._older(test.times.describe(oldest), f"test {test.place(oldest)}", newest)

    def place(self, sample: int, short: bool = False) -> str:
        """Return the name of a sample for messages; `short` if how rows are counted has been said."""
        return self.names[sample] if self.names else f"row {sample}{'' if short else ', counted from 0'}"

    @property
    def _times(self) -> NDArray[np.floating[Any]]:
        assert self.times is not None
        assert self.times.numbers is not None
        return self.times.numbers

    def _older(self, oldest: str, where: str, newest: int) -> ValueError:
        assert self.times is not None
        value = self.times.texts[self.times.codes[newest]]
        return ValueError(
            f"{oldest} ({where}) is older than {value} (training {self.place(newest, short=True)}): test and "
            f"validation {self.noun} must not be older than training {self.noun}"
        )


def _crossing(group: str, split: str, place: str, other_split: str, other_place: str) -> ValueError:
    return ValueError(
        f"{group} is in {split} ({place}) and in {other_split} ({other_place}): a group must be in one split"
    )
