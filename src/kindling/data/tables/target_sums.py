"""Sums of the target per category, and whether they tell the categories apart."""

import math
from typing import NamedTuple

import numpy as np

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.values import Targets


class TargetSums(NamedTuple):
    """Sums of target columns per category."""

    counts: Floats  # number of rows of each category, (C, 1)
    sums: Floats  # of each target column, (C, K)
    squares: float  # sum of the squares of all target columns in all rows


def are_classes(targets: Targets) -> bool:
    """Return whether targets are classes, not numbers."""
    return bool(np.issubdtype(targets.dtype, np.integer))


def sum_targets(codes: Indices, targets: Targets, categories: int, columns: int = 0) -> TargetSums:
    """Sum the targets (N,) of the rows of each category; those with code -1 are left out.

    Classes are `columns` indicators, by default as many as occur; numbers are a single column.
    """
    codes, targets = codes[codes >= 0], targets[codes >= 0]
    counts = np.bincount(codes, minlength=categories)[:, None].astype(np.float64)
    if not are_classes(targets):
        sums = np.bincount(codes, weights=targets, minlength=categories).astype(np.float64)
        return TargetSums(counts, sums[:, None], float((targets**2).sum()))
    columns = columns or int(targets.max(initial=0)) + 1
    pairs = np.bincount(codes * columns + targets, minlength=categories * columns)
    return TargetSums(counts, pairs.reshape(categories, columns).astype(np.float64), float(len(codes)))


def variances(table: TargetSums) -> tuple[float, float, float]:
    """Return the mean squares within and between categories, as in ANOVA, and the typical size of a category."""
    counts, sums = table.counts, table.sums
    categories, rows = len(counts), counts.sum()
    explained = (sums**2 / counts).sum()
    within = (table.squares - explained) / max(1, rows - categories)
    between = (explained - (sums.sum(axis=0) ** 2 / rows).sum()) / (categories - 1)
    return float(within), float(between), float((rows - (counts**2).sum() / rows) / (categories - 1))


def differ(within: float, between: float, categories: int) -> bool:
    """Return whether categories differ by more than two standard errors of the F statistic."""
    return between > within * (1 + 2 * math.sqrt(2 / categories))
