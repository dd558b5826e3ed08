"""Samples that are in more than one split, bit-identically or nearly."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats, Indices
from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable
from kindling.data.datamodule import SPLITS
from kindling.utils.text import count_noun, count_part

TOLERATED = 0.01  # of a split may be in another one, with a warning
CHANCE = 0.05  # expected equal samples up to which an equal one is a copy
MARGIN = 5  # times as many as expected, as columns are not independent
MIN_COPIES = 3  # of rows of a table, which can be equal by chance
MAX_HELD_OUT, MAX_TRAIN = 2_000, 50_000  # samples to compare for near-copies
MAX_LABELED = 5_000  # samples to compare for near-copies with another label
NEIGHBOR = 5  # the distance to the nearest sample is compared with that to this one
MAX_RATIO = 0.05  # of the two
FALSE_ALARMS = 0.1  # expected near-copies by chance in all samples


def find_copies(samples: SampleTable, fix: str) -> Iterator[Finding]:
    """Yield a finding if held-out samples have the inputs and the target of samples of an earlier split."""
    pairs = [*_equal_pairs(samples)]
    at_least = 1 if samples.chance is None else MIN_COPIES
    if len(pairs) < at_least or is_chance(samples, len(pairs)):
        return
    held_out = int((samples.splits != "train").sum())
    yield Finding(
        "copies",
        "error" if len(pairs) > TOLERATED * held_out else "warning",
        count_part(len(pairs), held_out, "validation and test samples", "is a copy", "are copies")
        + " of samples in another split",
        [f"{samples.place(row)} = {samples.place(other)}" for row, other in pairs],
        fix,
        _names(samples, pairs),
    )


def is_surprising(samples: SampleTable) -> NDArray[np.bool_]:
    """Return which samples hardly have an equal one by chance, (N,)."""
    return np.ones(len(samples.names), dtype=bool) if samples.chance is None else samples.chance < CHANCE


def is_chance(samples: SampleTable, number: int) -> bool:
    """Return whether chance may explain so many equal samples among those that hardly have one by chance."""
    return samples.chance is not None and number <= MARGIN * samples.chance[is_surprising(samples)].sum()


def find_near_copies(samples: SampleTable, fix: str) -> Iterator[Finding]:
    """Yield findings if samples are far closer than usual to one in another split, or with another class."""
    if samples.features is None:
        return
    is_train = samples.splits == "train"
    pairs = near_pairs(samples, _sample(~is_train, MAX_HELD_OUT), _sample(is_train, MAX_TRAIN))
    if len(pairs) >= MIN_COPIES:
        number = count_noun(len(pairs), "validation or test sample is", "validation and test samples are")
        message = f"{number} nearly the same as a training sample"
        where = [f"{samples.place(row)} ~ {samples.place(other)}" for row, other in pairs]
        yield Finding("near-copies", "warning", message, where, fix, _names(samples, pairs))
    if not samples.classes or samples.codes is None:
        return
    everything = np.full(len(is_train), True)
    near = near_pairs(samples, _sample(everything, MAX_LABELED), _sample(everything, MAX_TRAIN))
    codes = samples.codes
    pairs = sorted({(min(pair), max(pair)) for pair in near if codes[pair[0]] != codes[pair[1]]})
    if len(pairs) >= (1 if samples.chance is None else MIN_COPIES):
        number = count_noun(len(pairs), "pair of samples is", "pairs of samples are")
        message = f"{number} nearly the same, with different labels"
        where = [" ~ ".join(f"{samples.place(row)}: {samples.label(row)}" for row in pair) for pair in pairs]
        advice = "correct one of the labels, or remove both"
        yield Finding("near-copies", "warning", message, where, advice, _names(samples, pairs))


def _names(samples: SampleTable, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, ...]]:
    return [tuple(samples.names[row] for row in pair) for pair in pairs]


def near_pairs(samples: SampleTable, rows: Indices, others: Indices) -> list[tuple[int, int]]:
    """Return samples among `rows` and the one among `others` that each nearly equals, the closest first.

    A near-copy is far closer to its nearest neighbor than to the fifth. In D dimensions, the ratio of these
    distances is below t by chance with a probability of about 4 t^D; D is estimated from the median ratio of the first
    two distances, 2^(-1/D) (Facco et al. 2017, doi.org/10.1038/s41598-017-11873-y).
    """
    from sklearn.neighbors import NearestNeighbors  # imported here because it takes 2 s

    assert samples.features is not None
    if len(others) <= NEIGHBOR or not len(rows):
        return []
    features = samples.features.astype(np.float64)
    finder = NearestNeighbors(n_neighbors=NEIGHBOR + 1, algorithm="brute").fit(features[others])
    neighbors = finder.kneighbors(features[rows], return_distance=False)
    # Again from the differences: distances by a product of matrices are inexact for near-copies.
    away = np.linalg.norm(features[rows][:, None] - features[others][neighbors], axis=2)
    away[others[neighbors] == rows[:, None]] = np.inf  # the sample itself
    order = np.argsort(away, axis=1, kind="stable")[:, :NEIGHBOR]
    away, nearest = np.take_along_axis(away, order, 1), others[np.take_along_axis(neighbors, order, 1)[:, 0]]
    usable = (away[:, 0] > 0) & (away[:, 1] > away[:, 0])
    if not usable.any():
        return []
    dimension = np.log(2) / np.median(np.log(away[usable, 1] / away[usable, 0]))
    limit = min(MAX_RATIO, (FALSE_ALARMS / (4 * len(rows))) ** (1 / dimension))
    ratios = np.divide(away[:, 0], away[:, -1], where=away[:, -1] > 0, out=np.ones(len(away)))
    near = np.flatnonzero((ratios < limit) & (samples.inputs[rows] != samples.inputs[nearest]))
    near = near[np.argsort(ratios[near], kind="stable")]
    return list(zip(rows[near].tolist(), nearest[near].tolist(), strict=True))


def _equal_pairs(samples: SampleTable) -> Iterator[tuple[int, int]]:
    """Yield held-out samples, each with the first sample that has the same inputs and target in an earlier split."""
    ranks = np.array([SPLITS.index(split) for split in samples.splits])
    surprising = is_surprising(samples)
    first: dict[object, int] = {}  # by inputs and target
    for row in np.flatnonzero(surprising)[np.argsort(ranks[surprising], kind="stable")].tolist():
        target = None if samples.codes is None else samples.codes[row]
        earliest = first.setdefault((samples.inputs[row], target), row)
        if ranks[earliest] < ranks[row]:
            yield row, earliest


def _sample(mask: NDArray[np.bool_], number: int) -> Indices:
    rows = np.flatnonzero(mask)
    return rows if len(rows) <= number else np.sort(np.random.RandomState(0).permutation(rows)[:number])


def expected_copies(codes: list[Indices]) -> Floats:
    """Return how many other rows would equal each row by chance, if columns were independent, (N,).

    Args:
        codes: For each column, the index of the value of each row, -1 where missing, (N,).
    """
    rows = len(codes[0])
    logarithm = np.full(rows, np.log(max(rows - 1, 1)))
    for column in codes:
        logarithm += np.log(np.bincount(column + 1)[column + 1] / rows)
    expected: Floats = np.exp(logarithm)
    return expected
