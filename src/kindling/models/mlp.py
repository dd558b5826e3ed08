"""A multilayer perceptron for feature vectors and small images."""

import math
from typing import Any

from torch import nn

from kindling.models.classification import ClassificationTask


def mlp(in_features: int, hidden: tuple[int, ...], num_classes: int, dropout: float, batch_norm: bool) -> nn.Sequential:
    """Return hidden layers of linear, batch norm, ReLU and dropout, followed by a linear layer.

    Maps inputs (N, ...) with `in_features` values per sample to outputs (N, num_classes).
    """
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden layers need a width of at least 1, got {hidden}")
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers.append(nn.Linear(in_features, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, num_classes))


class MLPClassifier(ClassificationTask):
    """Multilayer perceptron: 784-128-10 on MNIST has 101,770 parameters.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing a hidden activation, in [0, 1].
        batch_norm: Whether to normalize each hidden layer over the batch.
        **kwargs: See `ClassificationTask`.
    """

    def __init__(
        self, hidden: tuple[int, ...] = (128,), dropout: float = 0.0, batch_norm: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.network = mlp(math.prod(self.input_shape), hidden, self.num_classes, dropout, batch_norm)
