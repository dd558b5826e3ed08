"""Partial dependence: how the predictions move with the values of one column, all others unchanged.

J. Friedman, Annals of Statistics 29 (2001); the curves of single samples are those of A. Goldstein et al., Journal of
Computational and Graphical Statistics 24 (2015).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kindling.evaluation.features import Feature
from kindling.evaluation.importance import Compute, inputs_of_features
from kindling.utils.tensors import evenly_spaced

POINTS = 25  # of a curve
TAIL = 0.01  # of the samples at either end, where there is too little data for a curve
ROWS = 500  # whose predictions are averaged
MIN_ROWS, MAX_PREDICTED = 20, 100_000  # of very many classes, fewer rows, with this many probabilities
CATEGORIES = 8  # most frequent ones


class Dependence(NamedTuple):
    """The predictions for some samples as the value of a feature changes.

    Attributes:
        feature: The feature.
        samples: Index of a sample that has each value, shape (V,); of numbers in increasing order, of categories the
            most frequent first, and a sample without a value last.
        predictions: With each of these values, shape (V, n, classes), probabilities; or (V, n), values.
    """

    feature: Feature
    samples: Tensor
    predictions: Tensor


def partial_dependence(compute: Compute, features: Sequence[Feature], feature: Feature) -> Dependence:
    """Return how the predictions for up to `ROWS` samples depend on one of the features of a model."""
    inputs = inputs_of_features(features)
    rows = min(ROWS, max(MIN_ROWS, MAX_PREDICTED // compute(inputs[:1]).numel()))
    chosen = inputs[evenly_spaced(len(inputs), rows)]
    samples = category_samples(feature) if feature.is_category else number_samples(feature)
    outputs = []
    for sample in samples:
        chosen[:, feature.places] = feature.values[sample]
        outputs.append(compute(chosen))
    stacked = torch.stack(outputs)
    return Dependence(feature, samples, stacked.exp() if stacked.ndim == 3 else stacked)


def number_samples(feature: Feature) -> Tensor:
    """Return samples with quantiles of the values, without repeated values."""
    known = (~feature.missing).nonzero().squeeze(1)
    ordered = known[feature.values[known, 0].argsort(stable=True)]
    quantiles = torch.linspace(TAIL, 1 - TAIL, POINTS) * (len(ordered) - 1)
    samples = ordered[torch.unique_consecutive(quantiles.round().long())]
    values = feature.values[samples, 0]
    return samples[torch.cat([torch.tensor([True]), values[1:] != values[:-1]])]


def category_samples(feature: Feature) -> Tensor:
    """Return a sample of each of the most frequent categories, most frequent first, and a last one without a value."""
    known = (~feature.missing).nonzero().squeeze(1)
    _, first, counts = np.unique(feature.values[known].numpy(), axis=0, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CATEGORIES]
    missing = feature.missing.nonzero().squeeze(1)[:1]
    return torch.cat([known[torch.from_numpy(first[order])], missing])
