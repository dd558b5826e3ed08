"""Predictions as JSON.

Imports nothing from Kindling: a TorchServe archive contains a copy of this file.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

THRESHOLD = 0.5  # of the probability of one of several classes


def to_predictions(outputs: Tensor, task: str, classes: Sequence[str], top: int) -> list[Any]:
    """Return the prediction for each sample.

    Args:
        outputs: Probabilities (N, classes) or (N, classes, ...); for regression values (N,).
        task: "classification", "multilabel" or "regression".
        classes: Class names.
        top: Number of classes to list, most probable first.
    """
    if task == "multilabel":
        return to_classes(outputs, classes, top)
    return to_values(outputs) if task == "regression" else to_response(outputs, classes, top)


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


def to_response(probabilities: Tensor, classes: Sequence[str], top: int) -> list[Any]:
    """Return for each sample the predicted class, its probability and the most probable classes.

    If a sample has a class at each position, return a list for each position instead.
    """
    if probabilities.ndim > 2:
        return [to_response(sample.movedim(1, 0), classes, top) for sample in probabilities]
    values, indices = probabilities.topk(min(top, len(classes)), dim=1)
    predictions = []
    for row, labels in zip(values.tolist(), indices.tolist(), strict=True):
        ranked = [{"class": classes[label], "probability": value} for label, value in zip(labels, row, strict=True)]
        predictions.append({**ranked[0], "top": ranked})
    return predictions
