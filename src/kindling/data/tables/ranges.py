"""The range of the training values of a column, and the distance of other values from it."""

import numpy as np

from kindling.data.tables.values import Column, Floats

TAIL_FRACTION = 0.01  # of the training values at either end are outside of the range
MIN_VALUES = 10  # fewer may all be outside by chance
MISFIT_MARGIN = 0.5  # difference of `misfit` from which on one interpretation is clearly better
FAR_WIDTHS = 2.0  # widths of the range, or a factor of exp(2) below it


def range_of(numbers: Floats) -> list[float]:
    """Return the lowest and the highest number without the tails, so that outliers do not matter."""
    known = np.sort(numbers[~np.isnan(numbers)])
    cut = int(TAIL_FRACTION * len(known))
    return [float(known[cut]), float(known[-1 - cut])]


def bounds(column: Column) -> list[float]:
    """Return the range of the training values; older checkpoints have only their mean and standard deviation."""
    stored: list[float] | None = column.get("range")
    return stored or [column["center"] - 3 * column["scale"], column["center"] + 3 * column["scale"]]


def format_range(column: Column) -> str:
    """Return the range of the training values for a message."""
    return " to ".join(f"{bound:.6g}" for bound in bounds(column))


def distances(numbers: Floats, column: Column) -> Floats:
    """Return the distance of numbers from the range of the training values, (N,); 0 is inside.

    The unit is the width of the range, or the logarithm of the ratio for too small positive values: 0.12 is far from
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
    """Return the median distance from the training range plus the fraction of numbers outside of it."""
    away = distances(numbers[~np.isnan(numbers)], column)
    return float(np.median(away) + np.mean(away > 0)) if len(away) else np.inf


def is_far_outside(numbers: Floats, column: Column) -> bool:
    """Return whether most numbers are far outside the range of the training values."""
    away = distances(numbers[~np.isnan(numbers)], column)
    if not len(away):
        return False
    typical = np.median(away)
    return bool(typical > FAR_WIDTHS or (len(away) >= MIN_VALUES and np.mean(away > 0) > 0.95 and typical > 0.2))
