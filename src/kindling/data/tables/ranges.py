"""The range of the training values of a column, and how far other values are from it."""

import numpy as np

from kindling.data.tables.values import Column, Floats

OUTSIDE = 0.01  # of the training values lie below the range, and as many above
LEAST_VALUES = 10  # with fewer values, all of them outside may be chance
CLEARLY = 0.5  # by how much one reading must fit better than another; see `misfit`
FAR_WIDTHS = 2.0  # widths of the range, or a factor of 7 below it


def range_of(numbers: Floats) -> list[float]:
    """Return the lowest and the highest number but for the tails, which a few wild values can't move."""
    known = np.sort(numbers[~np.isnan(numbers)])
    cut = int(OUTSIDE * len(known))
    return [float(known[cut]), float(known[-1 - cut])]


def bounds(column: Column) -> list[float]:
    """Return the range of the training values of a column; older checkpoints hold their mean and deviation alone."""
    stored: list[float] | None = column.get("range")
    return stored or [column["center"] - 3 * column["scale"], column["center"] + 3 * column["scale"]]


def in_words(column: Column) -> str:
    """Return the range of the training values for a message."""
    return " to ".join(f"{bound:.6g}" for bound in bounds(column))


def distances(numbers: Floats, column: Column) -> Floats:
    """Return how far numbers are outside the range of the training values, (N,); 0 is inside.

    In widths of the range, or as the logarithm of the ratio where positive values are too small: 0.12 is far from
    5 to 30.
    """
    low, high = bounds(column)
    width = high - low or abs(high) or 1.0
    outside: Floats = np.maximum(np.maximum(low - numbers, numbers - high), 0) / width
    if low > 0:
        ratio = np.log(low / np.where(numbers > 0, numbers, low))
        outside = np.maximum(outside, ratio)
    return outside


def misfit(numbers: Floats, column: Column) -> float:
    """Return how badly numbers fit the training values: the median distance plus the share outside the range."""
    away = distances(numbers[~np.isnan(numbers)], column)
    return float(np.median(away) + np.mean(away > 0)) if len(away) else np.inf


def is_far_outside(numbers: Floats, column: Column) -> bool:
    """Whether most numbers are far outside the range of the training values."""
    away = distances(numbers[~np.isnan(numbers)], column)
    if not len(away):
        return False
    typical = np.median(away)
    return bool(typical > FAR_WIDTHS or (len(away) >= LEAST_VALUES and np.mean(away > 0) > 0.95 and typical > 0.2))
