"""Numbers of a column as features of about the same size, whatever a few wild values among them are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.values import Floats

LARGEST = 1e100  # of a number; its square is still finite
TAIL = 0.05  # of the training values on each side have no say in the scale
FARTHEST = 1000.0  # standard deviations from the mean in older checkpoints
LIMIT = 5.0  # scales, which no feature exceeds
FAR = 30.0  # scales; of a million log-normal values (sigma 1) none is farther


def learn_scale(known: Floats) -> dict[str, float]:
    """Learn centre and scale of the training values: their median, and the larger distance to either end of 90%.

    Where these are all the same, as in a column of many zeros, it is the median distance of the others. Nothing but
    values and differences of them: they are the same to the bit on any machine.
    """
    ordered = np.sort(np.clip(known, -LARGEST, LARGEST))
    cut = int(TAIL * len(ordered))
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


def are_far(numbers: Floats, column: dict[str, Any]) -> NDArray[np.bool_]:
    """Whether each number is far from most of the training values, (N,)."""
    distances = np.abs(numbers - column["center"])
    return np.asarray("limit" in column and distances > FAR * column["scale"])
