"""Splits by time: the newest samples are held out, as a model is used on samples newer than those it was trained on."""

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats


def hold_out_newest(times: Floats, fraction: float) -> NDArray[np.bool_]:
    """Hold out the newest samples; those of one time stay together.

    Args:
        times: Time of each sample, in any unit, (N,).
        fraction: Fraction of the samples to hold out; the number may differ, as times are not split.

    Returns:
        Which samples are held out, (N,).

    Raises:
        ValueError: If all samples have the same time.
    """
    distinct, counts = np.unique(times, return_counts=True)
    if len(distinct) < 2:
        raise ValueError("all have the same time")
    at_least_as_new = counts[::-1].cumsum()[::-1][1:]  # without the oldest time, which is never held out
    first = np.abs(at_least_as_new - fraction * len(times)).argmin()
    newest: NDArray[np.bool_] = times >= distinct[1 + first]
    return newest


def find_older(times: Floats, splits: NDArray[np.object_]) -> tuple[int, int] | None:
    """Return a sample of val or test that is older than a training sample, and that one; None if there is none."""
    train, held_out = np.flatnonzero(splits == "train"), np.flatnonzero(np.isin(splits, ("val", "test")))
    if not len(train) or not len(held_out):
        return None
    oldest, newest = held_out[times[held_out].argmin()], train[times[train].argmax()]
    return (int(oldest), int(newest)) if times[oldest] < times[newest] else None
