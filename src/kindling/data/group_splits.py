"""Splits that keep groups of samples together, such as all images of a patient."""

import random

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Indices

MAX_DRAWS = 20  # the best of them is used
MAX_STEPS = 20_000  # groups to consider in all draws
PASSES = 3  # over the groups of a draw: some fit better, or no longer, once others are drawn
MAX_FITTED = 100_000  # more groups are so small in comparison that one pass does


def hold_out_groups(
    groups: Indices, labels: Indices, fraction: float, seed: int, keep_labels: bool = True
) -> NDArray[np.bool_]:
    """Draw whole groups that together have about a fraction of the samples of each label.

    scikit-learn's `StratifiedGroupKFold` holds out only 1/2, 1/3, 1/4 ...; its `GroupShuffleSplit` neither stratifies
    nor minds the sizes of the groups.

    Args:
        groups: Group of each sample, from 0, (N,).
        labels: Label of each sample, from 0, (N,): a class, or a range of numbers.
        fraction: Fraction of the samples to hold out.
        seed: Seed of the draw.
        keep_labels: Whether samples of each label must be left.

    Returns:
        Which samples are held out, (N,).

    Raises:
        ValueError: If no group can be held out.
    """
    counts = _Counts(groups, labels, fraction)
    order, rng, best = list(range(len(counts.parts))), random.Random(seed), (np.inf, list[int]())
    for _ in range(max(1, min(MAX_DRAWS, MAX_STEPS // len(counts.parts)))):
        rng.shuffle(order)
        best = min(best, counts.draw(order, keep_labels), key=lambda draw: draw[0])
    if not best[1]:
        only = " or has a label that no other group has" if keep_labels and len(counts.parts) > 1 else ""
        raise ValueError(f"no group can be held out: each is the only one{only}")
    return np.isin(groups, best[1])


class _Counts:
    """Samples of each label in each group, and how many of them to hold out.

    An additional last label stands for all samples.
    """

    def __init__(self, groups: Indices, labels: Indices, fraction: float) -> None:
        labels = np.unique(labels, return_inverse=True)[1]
        last = int(labels.max()) + 1
        pairs = np.append(groups * (last + 1) + labels, groups * (last + 1) + last)
        distinct, counts = np.unique(pairs, return_counts=True)  # sorted by group
        owners, self.labels = np.divmod(distinct, last + 1)
        self.counts = counts.astype(np.float64)
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        self.ids = owners[starts].tolist()
        self.parts = [slice(*ends) for ends in zip(starts, [*starts[1:], len(owners)], strict=True)]
        self.totals = np.append(np.bincount(labels), len(labels)).astype(np.float64)
        self.fraction = fraction
        self.weights = np.append(1 / self.totals[:-1], last / len(labels))  # the size counts as much as all labels

    def draw(self, order: list[int], keep_labels: bool) -> tuple[float, list[int]]:
        """Hold out groups so that the size of each label is as wanted: a greedy local search.

        It tries the groups in an order, and minimizes the sum over the labels of
        weight * (held out - fraction * total)². With `keep_labels`, samples of each label remain.

        Returns:
            The sum, and the groups that are held out.
        """
        wanted, left, drawn = self.fraction * self.totals, self.totals.copy(), set[int]()
        kept = slice(None) if keep_labels else slice(-1, None)
        closest: tuple[float, int | None] = np.inf, None
        for group in order * (PASSES if len(order) <= MAX_FITTED else 1):
            labels, counts = self.labels[self.parts[group]], self.counts[self.parts[group]]
            sign = -1 if group in drawn else 1
            if sign > 0 and (left[labels[kept]] <= counts[kept]).any():
                continue
            change = float((self.weights[labels] * counts * (counts - 2 * sign * wanted[labels])).sum())
            if change < 0 and (sign > 0 or len(drawn) > 1):
                wanted[labels] -= sign * counts
                left[labels] -= sign * counts
                drawn ^= {group}
            closest = min(closest, (change, group), key=lambda one: one[0])
        if not drawn and closest[1] is not None:  # all groups are too large
            wanted[self.labels[self.parts[closest[1]]]] -= self.counts[self.parts[closest[1]]]
            drawn = {closest[1]}
        return float((self.weights * wanted**2).sum()), [self.ids[group] for group in drawn]


def find_crossing(groups: Indices, splits: NDArray[np.object_]) -> tuple[int, int] | None:
    """Return two samples of one group in different splits; None if no group crosses a split."""
    order = np.lexsort((np.arange(len(groups)), groups))
    first = order[np.searchsorted(groups[order], groups)]  # the first sample of each sample's group
    crossing = np.flatnonzero(splits != splits[first])
    return (int(first[crossing[0]]), int(crossing[0])) if len(crossing) else None


def join_groups(groups: Indices, others: Indices) -> Indices:
    """Return groups of samples that are together in one of two groupings, directly or through other samples, (N,).

    A grouping is the group of each sample, from 0, (N,).
    """
    from scipy.sparse import coo_array  # imported here because it takes 0.2 s
    from scipy.sparse.csgraph import connected_components

    start = int(groups.max(initial=0)) + 1
    nodes = start + int(others.max(initial=0)) + 1
    edges = coo_array((np.ones(len(groups)), (groups, start + others)), shape=(nodes, nodes))
    joined: Indices = connected_components(edges, directed=False)[1][groups]
    return joined
