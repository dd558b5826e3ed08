"""Likely label errors, found by confident learning: C. Northcutt et al., J. Artif. Intell. Res. 70 (2021)."""

from typing import NamedTuple

import torch
from torch import Tensor

from kindling.models.many_classes import TopClasses


class LabelErrors(NamedTuple):
    """Samples whose label is likely wrong, the most likely first.

    Attributes:
        rows: Indices of the samples, (n,).
        suggested: The class that each sample more likely has, (n,); or 1 for each of its classes, (n, classes).
        scores: How much more probable the suggestion is than the label, in (0, 1], (n,): of several classes per sample,
            the largest such difference.
    """

    rows: Tensor
    suggested: Tensor
    scores: Tensor


def find_label_errors(probabilities: Tensor | TopClasses, labels: Tensor) -> LabelErrors:
    """Return the samples whose label is likely wrong.

    A model is sure of a class in a sample if its probability is at least the mean of that class among the samples with
    this label. A label is likely wrong if the class that the model is most sure of is another one, and so is the most
    probable class. Of several classes per sample, each is decided like a choice between two classes.

    Args:
        probabilities: Probabilities from models that were not trained on the samples, (N, classes), or those of the
            most probable of very many classes. Samples with NaN are left out.
        labels: The labels, (N,); or 1 for each class of a sample, (N, classes).
    """
    if labels.ndim > 1:
        assert isinstance(probabilities, Tensor)
        return _of_several_classes(probabilities, labels.bool())
    if isinstance(probabilities, TopClasses):
        classes, best, of_label = probabilities.classes, probabilities.probabilities, probabilities.of_label
    else:
        classes = torch.arange(probabilities.shape[1]).expand_as(probabilities)
        best, of_label = probabilities, probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    known = ~of_label.isnan()
    means = _means(of_label[known], labels[known], int(max(classes.max(), labels.max())) + 1)
    thresholds = means.where(~means.isnan(), of_label.nanmean())  # of a class without samples, the mean of all
    sure = best.masked_fill(best < thresholds[classes], -1).max(1)
    most, place = best.max(1)
    suggested = classes.gather(1, place.unsqueeze(1)).squeeze(1)
    surest = classes.gather(1, sure.indices.unsqueeze(1)).squeeze(1)
    # Comparisons with NaN are false.
    found = (sure.values >= 0) & (surest != labels) & (most > of_label)
    return _sorted(found, suggested, most - of_label)


def _of_several_classes(probabilities: Tensor, labels: Tensor) -> LabelErrors:
    """Return the label errors among labels (N, classes), given the probabilities (N, classes)."""
    of_label = torch.where(labels, probabilities, 1 - probabilities)
    sides = [of_label.masked_fill(labels != side, torch.nan) for side in (False, True)]
    usual = torch.stack([each.nanmean(0) for each in sides])  # (2, classes)
    usual = usual.where(~usual.isnan(), of_label.nanmean(0))  # of a side without samples, the mean of both
    is_sure = 1 - of_label >= torch.where(labels, usual[0], usual[1])  # of the other side
    wrong = is_sure & (of_label < 0.5)
    margins = (1 - 2 * of_label).masked_fill(~wrong, 0).amax(1)
    return _sorted(wrong.any(1), labels ^ wrong, margins)


def _means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of values (N,) by label (N,), shape (classes,)."""
    sums = torch.zeros(classes, dtype=torch.double).index_add_(0, labels, values.double())
    return (sums / labels.bincount(minlength=classes)).to(values.dtype)


def _sorted(found: Tensor, suggested: Tensor, scores: Tensor) -> LabelErrors:
    rows = found.nonzero().squeeze(1)
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    return LabelErrors(rows, suggested[rows], scores[rows])
