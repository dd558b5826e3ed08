"""The multilayer perceptron, for any task."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from kindling.models.task import BaseTask


def mlp(
    in_features: int, hidden: tuple[int, ...], out_features: int, dropout: Sequence[float], batch_norm: bool
) -> nn.Sequential:
    """Return hidden layers of linear, batch norm, ReLU and dropout, followed by a linear layer.

    Maps inputs (N, ...) with `in_features` values per sample to outputs (N, out_features). `dropout` has a probability
    for each hidden layer.
    """
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden layers need a width of at least 1, got {hidden}")
    layers: list[nn.Module] = [nn.Flatten()]
    for width, probability in zip(hidden, dropout, strict=True):
        layers.append(nn.Linear(in_features, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if any(dropout):  # also where it is 0, so that the weights have the same names in each model and version
            layers.append(nn.Dropout(probability))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


def dropouts(model: BaseTask, dropout: float, layers: int) -> list[float]:
    """Return the dropout probability of each hidden layer: in regression, only the last one has dropout.

    In earlier layers, dropout would bias the predicted values.
    """
    return [*[0.0] * (layers - 1), dropout][:layers] if model.task == "regression" else [dropout] * layers


class MLPModel(BaseTask):
    """Multilayer perceptron for feature vectors and small images, to be combined with a task.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing a hidden activation, in [0, 1].
        batch_norm: Whether to normalize each hidden layer over the batch.
        **kwargs: See the task.
    """

    def __init__(
        self, hidden: tuple[int, ...] = (128,), dropout: float = 0.0, batch_norm: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        by_layer = dropouts(self, dropout, len(hidden))
        self.network = mlp(math.prod(self.input_shape), hidden, self.num_outputs, by_layer, batch_norm)
