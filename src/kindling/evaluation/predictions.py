"""What a model says of samples."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """What a model said of N samples.

    Args:
        probabilities: Of each sample and class, shape (N, classes); NaN of a model that diverged is no answer.
        labels: The true classes, shape (N,).
        losses: The loss of each sample, shape (N,).
    """

    probabilities: Tensor
    labels: Tensor
    losses: Tensor

    @cached_property
    def predictions(self) -> Tensor:
        """The most probable class of each sample, shape (N,); the number of classes where there is no answer."""
        best, predictions = self.probabilities.max(dim=1)
        return predictions.masked_fill(best.isnan(), self.probabilities.shape[1])

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the prediction, shape (N,); 0 where there is none."""
        return self.probabilities.amax(dim=1).nan_to_num()

    @cached_property
    def right(self) -> Tensor:
        """Whether each prediction is right, shape (N,)."""
        return self.predictions == self.labels

    @cached_property
    def confusion(self) -> Tensor:
        """Samples by label and prediction, shape (classes, classes + 1); the last column is of those without answer."""
        classes = self.probabilities.shape[1]
        cells = self.labels * (classes + 1) + self.predictions
        return cells.bincount(minlength=classes * (classes + 1)).view(classes, classes + 1)

    def worst(self, number: int) -> Tensor:
        """The wrong answers that gave the label the least probability, worst first, shape (number or fewer,)."""
        wrong = (~self.right).nonzero().squeeze(1)
        of_label = self.probabilities[wrong, self.labels[wrong]]
        return wrong[of_label.argsort(stable=True)[:number]]
