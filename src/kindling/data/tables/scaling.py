"""Numbers of a column as features of about the same size, whatever a few wild values among them are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.quantities import LARGEST
from kindling.data.tables.values import Floats

TRIMMED = 0.05  # of the training values on each side do not affect the scale
FARTHEST = 1000.0  # standard deviations from the mean in older checkpoints
LEAST_VALUES = 10  # different ones, beside one that is repeated
LIMIT = 5.0  # scales, which no feature exceeds
FAR_SCALES = 30.0  # of a million log-normal values (sigma 1) none is farther


def learn_scale(known: Floats) -> dict[str, float]:
    """Learn centre and scale of the training values: their median, and the larger distance to either end of 90%.

    A value that is repeated and far from all others, as -999 for a missing one, does not affect them.
    """
    learned = _learn_scale(known)
    values, counts = np.unique(known, return_counts=True)
    repeated = values[counts.argmax()]
    if len(values) > LEAST_VALUES and 2 * counts.max() < len(known):
        others = _learn_scale(known[known != repeated])
        if are_far(repeated, others):
            return others | {"median": learned["median"]}
    return learned


def _learn_scale(known: Floats) -> dict[str, float]:
    """Learn centre and scale of all values.

    If the inner 90% are all the same, as in a column of many zeros, the scale is the median distance of the others.
    Nothing but values and differences of them: they are the same to the bit on any machine.
    """
    ordered = np.sort(np.clip(known, -LARGEST, LARGEST))
    cut = int(TRIMMED * len(ordered))
    center = float(np.median(ordered))
    distances = np.abs(ordered - center)
    scale = max(distances[cut], distances[-1 - cut]) or np.median(distances[distances > 0]) if distances.any() else 1.0
    return {"median": center, "center": center, "scale": float(scale), "limit": LIMIT}


def scale(numbers: Floats, column: dict[str, Any]) -> Floats:
    """Return numbers as multiples of the scale: about linear near the centre, and never beyond the limit."""
    # In float64: of 1,700,000,000 seconds float32 keeps but every 128th.
    ratios = np.clip((numbers - column["center"]) / column["scale"], -LARGEST, LARGEST)
    if "limit" not in column:  # older checkpoints: standard deviations from the mean
        return np.asarray(np.clip(ratios, -FARTHEST, FARTHEST))
    return np.asarray(ratios / np.sqrt(1 + (ratios / column["limit"]) ** 2))


def are_far(numbers: Floats | np.floating[Any], column: dict[str, Any]) -> NDArray[np.bool_]:
    """Whether each number is far from most of the training values, (N,)."""
    distances = np.abs(numbers - column["center"])
    return np.asarray("limit" in column and distances > FAR_SCALES * column["scale"])
