"""The most probable classes of each sample, kept in place of the probabilities of very many classes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MANY_CLASSES = 200  # with more, `predictions.csv`, report and TensorBoard list some of them, in bounded memory
TOP = 5  # most probable classes that are kept of each sample


class TopClasses(NamedTuple):
    """The most probable classes of N samples.

    Attributes:
        classes: The classes, most probable first, (N, TOP).
        probabilities: Their probabilities, (N, TOP); NaN if there is no prediction.
        of_label: Probability of the true class, (N,); NaN if it is not known.
        losses: Loss of each sample, (N,); NaN if it is not known.
    """

    classes: Tensor
    probabilities: Tensor
    of_label: Tensor
    losses: Tensor

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor | None = None, losses: Tensor | None = None) -> "TopClasses":
        """Return the most probable classes, given probabilities (N, classes), and labels and losses (N,) if known."""
        best, classes = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
        unknown = best.new_full((len(best),), torch.nan)
        of_label = unknown if labels is None else probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
        return cls(classes, best, of_label, unknown if losses is None else losses)

    def exp(self) -> "TopClasses":
        """Return the classes with probabilities in place of log-probabilities."""
        return self._replace(probabilities=self.probabilities.exp(), of_label=self.of_label.exp())

    @classmethod
    def cat(cls, parts: Sequence["TopClasses"]) -> "TopClasses":
        """Return the most probable classes of the samples of several batches."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def select(self, rows: Tensor) -> "TopClasses":
        """Return the most probable classes of some samples, by index (n,)."""
        return TopClasses(*(part[rows] for part in self))

    def log_probabilities(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return log-probabilities (N, num_classes), minus infinity for all but the known ones; `labels` are (N,)."""
        found = torch.full((len(labels), num_classes), -torch.inf)
        found.scatter_(1, labels.unsqueeze(1), self.of_label.log().unsqueeze(1))
        return found.scatter_(1, self.classes, self.probabilities.log())
