"""Statistics of repeated runs: intervals, and paired differences between two repeats."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
MAX_RUNS = 1000


class Estimate(NamedTuple):
    """Mean of a metric over several runs.

    Attributes:
        mean: Mean.
        std: Standard deviation of the runs.
        low: Lower end of the 95% confidence interval of the mean; NaN for a single run, as is `high`.
        high: Upper end.
    """

    mean: float
    std: float
    low: float
    high: float


class Difference(NamedTuple):
    """Paired difference of a metric between two repeats.

    Attributes:
        estimate: The mean difference.
        p_value: Of the two-sided paired t-test.
        needed: Number of pairs at which a difference of this size would be clear; None if more than `MAX_RUNS`, and for
            folds, of which more would not be independent.
    """

    estimate: Estimate
    p_value: float
    needed: int | None

    @property
    def is_clear(self) -> bool:
        """Whether the data supports a difference: the interval does not contain 0."""
        return self.estimate.low > 0 or self.estimate.high < 0


def estimate(values: Sequence[float], overlap: float = 0.0) -> Estimate:
    """Return the mean of n runs with its interval by Student's t distribution.

    Args:
        values: The metric of each run, shape (n,).
        overlap: Number of test samples divided by that of all others, including validation, if the runs are folds,
            whose training sets overlap: C. Nadeau and Y. Bengio, Machine Learning 52 (2003). 0 for independent runs.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan, math.nan)
    std = float(np.std(values, ddof=1))
    half = _quantile(len(values)) * _standard_error(std, len(values), overlap)
    return Estimate(mean, std, mean - half, mean + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], overlap: float = 0.0) -> Difference:
    """Return the mean of `ours - theirs` for n > 1 pairs, both of shape (n,); for `overlap` see `estimate`."""
    from scipy import stats

    found = estimate([one - other for one, other in zip(ours, theirs, strict=True)], overlap)
    size, error = abs(found.mean), _standard_error(found.std, len(ours), overlap)
    p_value = float(2 * stats.t.sf(size / error, len(ours) - 1)) if error > 0 else float(size == 0)
    numbers = range(len(ours), 0 if overlap else MAX_RUNS + 1)
    needed = (n for n in numbers if size > _quantile(n) * _standard_error(found.std, n, overlap))
    return Difference(found, p_value, next(needed, None))


def _standard_error(std: float, runs: int, overlap: float) -> float:
    return std * math.sqrt(1 / runs + overlap)


def _quantile(runs: int) -> float:
    from scipy import stats  # takes half a second to import

    return float(stats.t.ppf((1 + LEVEL) / 2, runs - 1))
