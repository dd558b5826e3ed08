"""Robust scale and range of the training values of a column, and the distance of other values from them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats
from kindling.data.tables.number_parsing import MAX_NUMBER
from kindling.data.tables.values import Column

TRIM_FRACTION = 0.05  # fraction of the training values at either end that does not affect the scale
MIN_DISTINCT = 10  # distinct values from which on a repeated one may be an outlier
LIMIT = 5.0  # largest absolute value of a feature
FAR_SCALES = 30.0  # scales from the center; none of a million log-normal values (sigma 1) is farther
TAIL_FRACTION = 0.01  # fraction of the training values at either end that is outside of the range
MIN_VALUES = 10  # fewer may all be outside by chance
MISFIT_MARGIN = 0.5  # minimum difference of `misfit` between a clearly better interpretation and the other
FAR_WIDTHS = 2.0  # widths of the range, or a factor of exp(2) below it


def learn_scale(known: Floats) -> dict[str, float]:
    """Learn center and scale of the training values: the median, and its larger distance to the 5% or 95% quantile.

    The most frequent value is ignored if it is far from all others, such as -999 for missing.
    """
    learned = _learn_scale(known)
    values, counts = np.unique(known, return_counts=True)
    repeated = values[counts.argmax()]
    if len(values) > MIN_DISTINCT and 2 * counts.max() < len(known):
        others = _learn_scale(known[known != repeated])
        if are_far(repeated, others):
            return others | {"median": learned["median"]}
    return learned


def _learn_scale(known: Floats) -> dict[str, float]:
    """Learn center and scale of all values.

    If the inner 90% are constant, as in a column of mostly zeros, the scale is the median distance of the others. Only
    values and their differences are used, so results are bit-identical on any machine.
    """
    ordered = np.sort(np.clip(known, -MAX_NUMBER, MAX_NUMBER))
    cut = int(TRIM_FRACTION * len(ordered))
    center = float(np.median(ordered))
    distances = np.abs(ordered - center)
    scale = max(distances[cut], distances[-1 - cut]) or np.median(distances[distances > 0]) if distances.any() else 1.0
    return {"median": center, "center": center, "scale": float(scale), "limit": LIMIT}


def scale(numbers: Floats, column: Column) -> Floats:
    """Scale numbers: about linear near the center, saturating at the limit."""
    # In float64, as float32 resolves 1,700,000,000 seconds only to 128 s.
    ratios = np.clip((numbers - column["center"]) / column["scale"], -MAX_NUMBER, MAX_NUMBER)
    return np.asarray(ratios / np.sqrt(1 + (ratios / column["limit"]) ** 2))


def unscale(features: Floats, column: Column) -> Floats:
    """Invert `scale`: return the original numbers of scaled features."""
    shares = np.clip(features.astype(np.float64) / column["limit"], -1 + 1e-9, 1 - 1e-9)
    ratios = column["limit"] * shares / np.sqrt(1 - shares**2)
    return np.asarray(column["center"] + column["scale"] * ratios)


def are_far(numbers: Floats | np.floating[Any], column: Column) -> NDArray[np.bool_]:
    """Return whether each number is far from most of the training values, (N,)."""
    return np.asarray(np.abs(numbers - column["center"]) > FAR_SCALES * column["scale"])


def range_of(numbers: Floats) -> list[float]:
    """Return the lowest and the highest number without the tails, so that outliers do not matter."""
    known = np.sort(numbers[~np.isnan(numbers)])
    cut = int(TAIL_FRACTION * len(known))
    return [float(known[cut]), float(known[-1 - cut])]


def format_range(column: Column) -> str:
    """Return the range of the training values for a message."""
    return " to ".join(f"{bound:.6g}" for bound in column["range"])


def distances(numbers: Floats, column: Column) -> Floats:
    """Return the distance of numbers from the range of the training values, (N,); 0 is inside.

    The unit is the width of the range, or the logarithm of the ratio for too small positive values: 0.12 is far from
    5 to 30.
    """
    low, high = column["range"]
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
