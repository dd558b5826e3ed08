"""Robust scaling of the numbers of a column."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.quantities import MAX_NUMBER
from kindling.data.tables.values import Floats

TRIM_FRACTION = 0.05  # of the training values at either end do not affect the scale
LEGACY_LIMIT = 1000.0  # standard deviations from the mean, in older checkpoints
MIN_DISTINCT = 10  # values from which on a repeated one may be an outlier
LIMIT = 5.0  # largest absolute value of a feature
FAR_SCALES = 30.0  # scales from the centre; none of a million log-normal values (sigma 1) is farther


def learn_scale(known: Floats) -> dict[str, float]:
    """Learn centre and scale of the training values: the median, and its larger distance to the 5% or 95% quantile.

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
    """Learn centre and scale of all values.

    If the inner 90% are constant, as in a column of mostly zeros, the scale is the median distance of the others. Only
    values and their differences are used, so results are the same to the bit on any machine.
    """
    ordered = np.sort(np.clip(known, -MAX_NUMBER, MAX_NUMBER))
    cut = int(TRIM_FRACTION * len(ordered))
    center = float(np.median(ordered))
    distances = np.abs(ordered - center)
    scale = max(distances[cut], distances[-1 - cut]) or np.median(distances[distances > 0]) if distances.any() else 1.0
    return {"median": center, "center": center, "scale": float(scale), "limit": LIMIT}


def scale(numbers: Floats, column: dict[str, Any]) -> Floats:
    """Scale numbers: about linear near the centre, saturating at the limit."""
    # In float64, as float32 resolves 1,700,000,000 seconds only to 128 s.
    ratios = np.clip((numbers - column["center"]) / column["scale"], -MAX_NUMBER, MAX_NUMBER)
    if "limit" not in column:  # older checkpoints use standard deviations from the mean
        return np.asarray(np.clip(ratios, -LEGACY_LIMIT, LEGACY_LIMIT))
    return np.asarray(ratios / np.sqrt(1 + (ratios / column["limit"]) ** 2))


def are_far(numbers: Floats | np.floating[Any], column: dict[str, Any]) -> NDArray[np.bool_]:
    """Return whether each number is far from most of the training values, (N,)."""
    distances = np.abs(numbers - column["center"])
    return np.asarray("limit" in column and distances > FAR_SCALES * column["scale"])
