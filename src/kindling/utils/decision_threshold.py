"""The decision threshold of a classifier with two classes, and that of a multi-label classifier.

Imports nothing from Kindling: a TorchServe archive contains a copy of this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

THRESHOLD = 0.5  # of a multi-label classifier: each class is predicted from this probability on
CURVE_STEPS = 100  # between the thresholds 0 and 1 of a curve


@dataclass(frozen=True)
class DecisionThreshold:
    """The probability from which a classifier with two classes predicts the positive class.

    Attributes:
        value: The probability, from 0 to 1.
        positive: Index of the positive class, 0 or 1.
        metric: The metric for which it was chosen on the validation split; empty if it was given as a number.
        score: The value of that metric.
        curve: The metric on the validation split at the thresholds 0, 0.01, ..., 1.

    Raises:
        ValueError: If the value or the index is out of its range.
    """

    value: float
    positive: int = 1
    metric: str = ""
    score: float = 0.0
    curve: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, got {self.value}")
        if self.positive not in (0, 1):
            raise ValueError(f"the positive class of a threshold must be 0 or 1, got {self.positive}")

    def as_dict(self) -> dict[str, Any]:
        """Return the threshold as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return a threshold from the result of `as_dict`."""
        return cls(**{each.name: stored[each.name] for each in fields(cls) if each.name in stored})

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Self | None:
        """Return the threshold in the card of a model, see `kindling.deploy.model_card`; None if it has none.

        Raises:
            ValueError: If its positive class is not one of two classes.
        """
        if card.get("threshold") is None:
            return None
        classes, positive = card["classes"], card["positive_class"]
        if len(classes) != 2 or positive not in classes:
            raise ValueError(f"the positive class of a threshold must be one of two classes, got {positive}")
        return cls(card["threshold"], classes.index(positive), card["threshold_metric"])

    def describe(self, class_names: Sequence[str]) -> str:
        """Return in words which class is predicted from which probability, and why."""
        text = f"predicts {class_names[self.positive]} from a probability of {self.value:.4g}"
        if not self.metric:
            return text
        text += f", the best threshold for {self.metric} on the validation split"
        if not self.curve:  # an exported file has no curve
            return text
        return f"{text} ({self.score:.4f}; {self.curve[CURVE_STEPS // 2]:.4f} with 0.5)"


def predicted_classes(probabilities: Tensor, threshold: DecisionThreshold | None) -> Tensor:
    """Return the predicted classes (N, ...) for probabilities (N, classes, ...).

    Without a threshold, the most probable class is predicted.
    """
    if threshold is None:
        return probabilities.max(dim=1).indices
    is_positive = probabilities[:, threshold.positive] >= threshold.value
    return torch.where(is_positive, threshold.positive, 1 - threshold.positive)
