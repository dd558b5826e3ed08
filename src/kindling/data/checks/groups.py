"""Columns of groups: several rows of one value belong together, such as all visits of a patient."""

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Indices
from kindling.data.checks.report import Finding
from kindling.data.tables.columns import ID_NAME
from kindling.data.tables.number_parsing import as_number
from kindling.utils.text import count_part

Values = tuple[Indices, list[str]]  # index of the value of each row, -1 where missing, (N,); and the values

MIN_GROUPS = 10  # distinct values of a group column
MIN_GROUP_ROWS = 1.5  # rows of a group on average
MIN_PAIRS = 20  # rows to compare with the first one of their group
MAX_CHANCE = 1e-6  # probability that as many rows have equal targets by chance
SAME_TARGET = 0.98  # of the rows of a group
SAME_FEATURE = 0.95
INFORMATIVE = 0.5  # random rows are equal in at most this fraction
MOST = 0.5  # of the informative columns


def find_groups(columns: Mapping[str, Values], target: NDArray[Any], splits: NDArray[np.object_]) -> dict[str, Finding]:
    """Return a finding for each group column that has a group in several splits, by column.

    Such a column has the name of an ID; or the rows of each value have the same target, or the same values in most
    other columns, far more often than chance explains. Of columns with the same groups, one is returned.

    Args:
        columns: The columns to look at, and to compare rows by.
        target: Classes or numbers, (N,).
        splits: The split of each row, (N,).
    """
    grouping = [name for name, column in columns.items() if _has_groups(*column)]
    named = [name for name in grouping if ID_NAME.fullmatch(name)]
    others = [name for name in grouping if name not in named and _belong_together(name, columns, target)]
    kept, found = list[str](), dict[str, Finding]()
    for name in (*named, *sorted(others, key=lambda other: -len(columns[other][1]))):
        codes, values = columns[name]
        known = [each for each in kept if name in others or len(columns[each][1]) == len(values)]
        if any(_determines(columns[each][0], codes) for each in known):
            continue  # an attribute of these groups, such as the age of a patient, or another name for them
        kept.append(name)
        if crossing := [values[code] for code in in_several_splits(codes, splits)]:
            share = count_part(len(crossing), len(values), "values", "is", "are")
            message = f"column {name}: {share} in more than one split"
            fix = f"if rows of one {name} belong together, keep them in one split: --data.groups {shlex.quote(name)}"
            found[name] = Finding("groups", "warning", message, crossing, fix)
    return found


def _has_groups(codes: Indices, values: list[str]) -> bool:
    """Return whether a column has enough values, with several rows each, and they are not measurements."""
    are_enough = len(values) >= MIN_GROUPS and (codes >= 0).sum() >= MIN_GROUP_ROWS * len(values)
    return are_enough and not (_are_numbers(values) and any(as_number(value) % 1 for value in values))


def _belong_together(name: str, columns: Mapping[str, Values], target: NDArray[Any]) -> bool:
    """Return whether rows with the same value in a column have the same target, or are the same in most columns."""
    codes, values = columns[name]
    first = _first_rows(codes)
    rows = np.flatnonzero((codes >= 0) & (first != np.arange(len(codes))))
    first = first[rows]
    if len(rows) < MIN_PAIRS:
        return False
    others = np.random.RandomState(0).permutation(len(codes))
    chance = float(np.mean(target == target[others]))
    same = float(np.mean(target[first] == target[rows]))
    is_significant = chance < 1 and len(rows) * np.log(max(chance, 1e-9)) < np.log(MAX_CHANCE)
    if same >= SAME_TARGET and is_significant and not (_are_numbers(values) and _is_smooth(codes, values, target)):
        return True
    informative = shared = 0
    for each, (other, texts) in columns.items():
        if each == name or np.mean(other == other[others]) > INFORMATIVE:
            continue
        same = float(np.mean(other[first] == other[rows]))
        if same >= SAME_FEATURE and len(texts) >= 0.9 * len(values) and not _are_numbers(texts):
            continue  # another name for the same groups
        informative += 1
        shared += same >= SAME_FEATURE
    return shared > 1 and shared >= MOST * informative


def _first_rows(codes: Indices) -> Indices:
    """Return the first row with the value of each row, (N,)."""
    known, starts = np.unique(codes, return_index=True)
    first: Indices = starts[np.searchsorted(known, codes)]
    return first


def _determines(codes: Indices, others: Indices) -> bool:
    """Return whether all rows with one value have the same value in another column."""
    return bool((others == others[_first_rows(codes)]).all())


def _is_smooth(codes: Indices, values: list[str], target: NDArray[Any]) -> bool:
    """Return whether neighboring numbers have the same target, so that they are measurements and do not name groups."""
    numbers = np.array([as_number(value) for value in values])
    known, starts = np.unique(codes, return_index=True)
    starts = starts[known >= 0][np.argsort(numbers[known[known >= 0]], kind="stable")]
    return bool(np.mean(target[starts[1:]] == target[starts[:-1]]) > (1 + np.mean(target == target[::-1])) / 2)


def _are_numbers(texts: list[str]) -> bool:
    return not any(np.isnan(as_number(text)) for text in texts)


def in_several_splits(codes: Indices, splits: NDArray[np.object_]) -> Indices:
    """Return which values occur in several splits, given the value of each row, -1 where missing, (N,)."""
    names, numbers = np.unique(splits, return_inverse=True)
    known = codes >= 0
    pairs = np.unique(codes[known] * len(names) + numbers[known])  # each value with each split that has it
    return np.flatnonzero(np.bincount(pairs // len(names)) > 1)
