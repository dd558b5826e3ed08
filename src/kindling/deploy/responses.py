"""How a prediction is said to a client.

Needs nothing else of Kindling: an archive for TorchServe carries this file as it is.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def to_response(probabilities: Tensor, classes: Sequence[str], top: int) -> list[Any]:
    """Return the class of each sample, its probability, and those that come next.

    Where a sample has a class at each position, return lists of these.

    Args:
        probabilities: Shape (N, classes) or (N, classes, ...).
        classes: Their names.
        top: How many classes to list, the most probable first.
    """
    if probabilities.ndim > 2:
        return [to_response(sample.movedim(1, 0), classes, top) for sample in probabilities]
    values, places = probabilities.topk(min(top, len(classes)), dim=1)
    found = []
    for row, named in zip(values.tolist(), places.tolist(), strict=True):
        ranked = [{"class": classes[place], "probability": value} for place, value in zip(named, row, strict=True)]
        found.append({**ranked[0], "top": ranked})
    return found
