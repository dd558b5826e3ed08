"""Predictions as JSON.

Imports nothing from Kindling: a TorchServe archive contains a copy of this file.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def to_response(probabilities: Tensor, classes: Sequence[str], top: int) -> list[Any]:
    """Return for each sample the predicted class, its probability and the most probable classes.

    If a sample has a class at each position, return a list for each position instead.

    Args:
        probabilities: Shape (N, classes) or (N, classes, ...).
        classes: Class names.
        top: Number of classes to list, most probable first.
    """
    if probabilities.ndim > 2:
        return [to_response(sample.movedim(1, 0), classes, top) for sample in probabilities]
    values, indices = probabilities.topk(min(top, len(classes)), dim=1)
    predictions = []
    for row, labels in zip(values.tolist(), indices.tolist(), strict=True):
        ranked = [{"class": classes[label], "probability": value} for label, value in zip(labels, row, strict=True)]
        predictions.append({**ranked[0], "top": ranked})
    return predictions
