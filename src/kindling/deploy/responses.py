"""Predictions as JSON.

A TorchServe archive contains a copy of this file and of the one that it imports.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kindling.utils.decision_threshold import THRESHOLD, DecisionThreshold, predicted_classes


def to_predictions(
    outputs: Tensor, task: str, classes: Sequence[str], top: int, threshold: DecisionThreshold | None = None
) -> list[Any]:
    """Return the prediction for each sample.

    Args:
        outputs: Probabilities (N, classes) or (N, classes, ...); for regression values (N,).
        task: "classification", "multilabel" or "regression".
        classes: Class names.
        top: Number of classes to list, most probable first.
        threshold: Decision threshold of two classes.
    """
    if task == "multilabel":
        return to_classes(outputs, classes, top)
    return to_values(outputs) if task == "regression" else to_response(outputs, classes, top, threshold)


def to_classes(probabilities: Tensor, classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return for each sample the classes with a probability of at least 0.5, and the most probable ones."""
    return [
        {
            "classes": [name for name, value in zip(classes, row, strict=True) if value >= THRESHOLD],
            "top": response["top"],
        }
        for row, response in zip(probabilities.tolist(), to_response(probabilities, classes, top), strict=True)
    ]


def to_values(values: Tensor) -> list[dict[str, float]]:
    """Return the values (N,), each with the fewest digits that tell it from other float32 numbers."""
    return [{"value": float(str(value))} for value in values.float().numpy()]


def to_response(
    probabilities: Tensor, classes: Sequence[str], top: int, threshold: DecisionThreshold | None = None
) -> list[Any]:
    """Return for each sample the predicted class, its probability and the most probable classes.

    If a sample has a class at each position, return a list for each position instead.
    """
    if probabilities.ndim > 2:
        return [to_response(sample.movedim(1, 0), classes, top, threshold) for sample in probabilities]
    values, indices = probabilities.topk(min(top, len(classes)), dim=1)
    predicted = indices[:, 0] if threshold is None else predicted_classes(probabilities, threshold)
    chances = probabilities.gather(1, predicted.unsqueeze(1)).squeeze(1)
    predictions = []
    found = (predicted.tolist(), chances.tolist(), indices.tolist(), values.tolist())
    for best, chance, labels, row in zip(*found, strict=True):
        ranked = [{"class": classes[label], "probability": value} for label, value in zip(labels, row, strict=True)]
        predictions.append({"class": classes[best], "probability": chance, "top": ranked})
    return predictions
