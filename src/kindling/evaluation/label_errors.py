"""Likely label errors: samples whose label is improbable, of which confident learning says how many are wrong.

See C. Northcutt et al., J. Artif. Intell. Res. 70 (2021). Of labels swapped on purpose, the order by the probability of
the label (self-confidence) finds more than the order by margins, and than confident learning alone: docs/report.md.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kindling.models.many_classes import TopClasses


class LabelErrors(NamedTuple):
    """Samples whose label is not what the model predicts, the one with the most improbable label first.

    Attributes:
        rows: Indices of the samples, (n,).
        suggested: The most probable class of each sample, (n,); or 1 for each of its classes, (n, classes).
        probabilities: The probability of the label, (n,): of several classes per sample, the lowest one.
        sure: Whether the model is sure of another class, (n,), by confident learning.
    """

    rows: Tensor
    suggested: Tensor
    probabilities: Tensor
    sure: Tensor


def find_label_errors(probabilities: Tensor | TopClasses, labels: Tensor) -> LabelErrors:
    """Return the samples whose label is likely wrong: it is not the most probable class.

    A model is sure of a class in a sample if its probability is at least the mean of that class among the samples with
    this label; never of a class without samples. Of several classes per sample, each is decided like a choice between
    two classes.

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
    thresholds = means.where(~means.isnan(), torch.inf)  # nothing is known of a class without samples
    surest = best.masked_fill(best < thresholds[classes], -1).max(1)
    most, place = best.max(1)
    suggested = classes.gather(1, place.unsqueeze(1)).squeeze(1)
    sure_of = classes.gather(1, surest.indices.unsqueeze(1)).squeeze(1)
    # Comparisons with NaN are false.
    return _sorted(most > of_label, suggested, of_label, (surest.values >= 0) & (sure_of != labels))


def _of_several_classes(probabilities: Tensor, labels: Tensor) -> LabelErrors:
    """Return the label errors among labels (N, classes), given the probabilities (N, classes)."""
    of_label = torch.where(labels, probabilities, 1 - probabilities)
    sides = [of_label.masked_fill(labels != side, torch.nan) for side in (False, True)]
    usual = torch.stack([each.nanmean(0) for each in sides])  # (2, classes)
    usual = usual.where(~usual.isnan(), torch.inf)  # nothing is known of a side without samples
    is_sure = 1 - of_label >= torch.where(labels, usual[0], usual[1])  # of the other side
    wrong = of_label < 0.5
    return _sorted(wrong.any(1), labels ^ wrong, of_label.amin(1), (is_sure & wrong).any(1))


def _means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of values (N,) by label (N,), shape (classes,)."""
    sums = torch.zeros(classes, dtype=torch.double).index_add_(0, labels, values.double())
    return (sums / labels.bincount(minlength=classes)).to(values.dtype)


def _sorted(found: Tensor, suggested: Tensor, probabilities: Tensor, sure: Tensor) -> LabelErrors:
    """Return the samples that are found (N,), given the other values for all samples; see `LabelErrors`."""
    rows = found.nonzero().squeeze(1)
    rows = rows[probabilities[rows].argsort(stable=True)]
    return LabelErrors(rows, suggested[rows], probabilities[rows], sure[rows])
