"""Predictions of a classifier and their confusion matrix, for the report and TensorBoard."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from kindling.utils.decision import DecisionThreshold, predicted_classes

NO_PREDICTION = "no prediction"  # shown instead of a class name if the prediction is NaN


@dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier for N labeled samples.

    Args:
        probabilities: Shape (N, classes). A row with NaN, from a model that diverged, counts as no prediction.
        labels: The true classes, shape (N,).
        threshold: Decision threshold of two classes; None to predict the most probable class.
        decided: The predicted classes, shape (N,), if they follow from neither.
    """

    probabilities: Tensor
    labels: Tensor
    threshold: DecisionThreshold | None = None
    decided: Tensor | None = None

    @cached_property
    def classes(self) -> Tensor:
        """The predicted class of each sample, shape (N,); the number of classes if there is no prediction."""
        return self._decided.masked_fill(self.probabilities.isnan().any(dim=1), self.probabilities.shape[1])

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the predicted class, shape (N,); 0 if there is no prediction."""
        return self.probabilities.gather(1, self._decided.unsqueeze(1)).squeeze(1).nan_to_num()

    @property
    def _decided(self) -> Tensor:
        """The predicted classes, (N,), also of rows with NaN."""
        return predicted_classes(self.probabilities, self.threshold) if self.decided is None else self.decided

    @cached_property
    def correct(self) -> Tensor:
        """Whether each prediction is correct, shape (N,)."""
        return self.classes == self.labels

    @cached_property
    def confusion_matrix(self) -> Tensor:
        """Number of samples by label and prediction, shape (classes, classes + 1); the last column: no prediction."""
        classes = self.probabilities.shape[1]
        return multiclass_confusion_matrix(self.classes, self.labels, classes + 1, validate_args=False)[:-1]

    def worst(self, number: int) -> Tensor:
        """Return the indices of the wrong predictions with the lowest probability of the label, lowest first."""
        wrong = (~self.correct).nonzero().squeeze(1)
        return wrong[self.probabilities[wrong, self.labels[wrong]].argsort(stable=True)[:number]]
