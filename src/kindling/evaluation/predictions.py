"""Predictions of a classifier and their confusions, for the report and TensorBoard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from kindling.models.many_classes import TopClasses
from kindling.utils.decision_threshold import DecisionThreshold, predicted_classes
from kindling.utils.tensors import evenly_spaced

NO_PREDICTION = "no prediction"  # shown instead of a class name if the prediction is NaN


class ConfusionCounts(NamedTuple):
    """How often each pair of label and prediction occurs: the cells of a confusion matrix that are not 0, row by row.

    Attributes:
        labels: Class of each pair, (P,).
        predictions: Predicted class, (P,); the number of classes if there is no prediction.
        counts: Number of samples, (P,).
    """

    labels: Tensor
    predictions: Tensor
    counts: Tensor

    def matrix(self, classes: int) -> Tensor:
        """Return the confusion matrix, shape (classes, classes + 1); the last column: no prediction."""
        counts = torch.zeros(classes, classes + 1, dtype=torch.long)
        counts[self.labels, self.predictions] = self.counts
        return counts


@dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier for N labeled samples.

    Args:
        probabilities: Shape (N, classes), or those of the most probable classes. A row with NaN, from a model that
            diverged, counts as no prediction.
        labels: The true classes, shape (N,).
        num_classes: Number of classes.
        threshold: Decision threshold of two classes; None to predict the most probable class.
        decided: The predicted classes, shape (N,), if they follow from neither.
    """

    probabilities: Tensor | TopClasses
    labels: Tensor
    num_classes: int
    threshold: DecisionThreshold | None = None
    decided: Tensor | None = None

    @classmethod
    def of(cls, outputs: Tensor | TopClasses, *arguments: Any) -> Self:
        """Return predictions, given log-probabilities (N, classes) or the most probable classes."""
        return cls(outputs if isinstance(outputs, TopClasses) else outputs.exp(), *arguments)

    @cached_property
    def classes(self) -> Tensor:
        """The predicted class of each sample, shape (N,); the number of classes if there is no prediction."""
        isnan = (self.probabilities[1] if isinstance(self.probabilities, TopClasses) else self.probabilities).isnan()
        return self._decided.masked_fill(isnan.any(dim=1), self.num_classes)

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the predicted class, shape (N,); 0 if there is no prediction."""
        if isinstance(self.probabilities, TopClasses):
            return self.probabilities.probabilities[:, 0].nan_to_num()
        return self.probabilities.gather(1, self._decided.unsqueeze(1)).squeeze(1).nan_to_num()

    @cached_property
    def of_label(self) -> Tensor:
        """The probability of the true class, shape (N,)."""
        if isinstance(self.probabilities, TopClasses):
            return self.probabilities.of_label
        return self.probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    @property
    def _decided(self) -> Tensor:
        """The predicted classes, (N,), also of rows with NaN."""
        if isinstance(self.probabilities, TopClasses):
            return self.probabilities.classes[:, 0]
        return predicted_classes(self.probabilities, self.threshold) if self.decided is None else self.decided

    def uncalibrated(self, temperatures: Tensor) -> Self | None:
        """Return the same predicted classes with the probabilities before calibration; None for very many classes.

        The logits of each sample were divided by its temperature, (N, 1).
        """
        if isinstance(self.probabilities, TopClasses):
            return None
        logits = self.probabilities.log() * temperatures
        return replace(self, probabilities=logits.softmax(dim=1), decided=self._decided)

    @cached_property
    def correct(self) -> Tensor:
        """Whether each prediction is correct, shape (N,)."""
        return self.classes == self.labels

    @cached_property
    def confusions(self) -> ConfusionCounts:
        """How often each pair of label and prediction occurs."""
        columns = self.num_classes + 1
        cells, counts = torch.unique(self.labels * columns + self.classes, return_counts=True)
        return ConfusionCounts(cells // columns, cells % columns, counts)

    @cached_property
    def class_counts(self) -> Tensor:
        """Number of correct predictions, labels and predictions of each class, shape (3, classes)."""
        correct = self.labels[self.correct]
        parts = [part.bincount(minlength=self.num_classes + 1) for part in (correct, self.labels, self.classes)]
        return torch.stack(parts)[:, :-1]

    @property
    def second(self) -> Tensor:
        """The most probable class apart from the predicted one, shape (N,)."""
        if isinstance(self.probabilities, TopClasses):
            return self.probabilities.classes[:, 1]
        return self.probabilities.scatter(1, self._decided.unsqueeze(1), -1.0).argmax(dim=1)

    def right(self, number: int) -> Tensor:
        """Return the indices of a few correct predictions, from the least to the most confident."""
        right = self.correct.nonzero().squeeze(1)
        right = right[self.confidence[right].argsort(stable=True)]
        return right[evenly_spaced(len(right), number)]

    def worst(self, number: int) -> Tensor:
        """Return the indices of the wrong predictions with the lowest probability of the label, lowest first."""
        wrong = (~self.correct).nonzero().squeeze(1)
        return wrong[self.of_label[wrong].argsort(stable=True)[:number]]


def most_confused(confusions: ConfusionCounts, names: Sequence[str], number: int) -> list[tuple[str, str, int, float]]:
    """Return label, prediction, number of samples and share of the label of the most frequent confusions."""
    wrong = confusions.labels != confusions.predictions
    labels, predictions, counts = (part[wrong] for part in confusions)
    samples = torch.zeros(len(names), dtype=torch.long).index_add_(0, confusions.labels, confusions.counts)
    most = counts.argsort(descending=True, stable=True)[:number]
    found = (labels[most].tolist(), predictions[most].tolist(), counts[most].tolist())
    columns = [*names, NO_PREDICTION]
    shares = (counts[most] / samples[labels[most]]).tolist()
    return [
        (columns[label], columns[prediction], count, share)
        for label, prediction, count, share in zip(*found, shares, strict=True)
    ]
