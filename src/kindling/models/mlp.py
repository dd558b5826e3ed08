"""A multilayer perceptron for feature vectors and small images."""

import math
from typing import Any

from kindling.models.classification import ClassificationTask
from kindling.models.layers import mlp
from kindling.models.regression import MLPRegressor


class MLPClassifier(ClassificationTask):
    """Multilayer perceptron: 784-128-10 on MNIST has 101,770 parameters.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing a hidden activation, in [0, 1].
        batch_norm: Whether to normalize each hidden layer over the batch.
        **kwargs: See `ClassificationTask`.
    """

    regressor = MLPRegressor

    def __init__(
        self, hidden: tuple[int, ...] = (128,), dropout: float = 0.0, batch_norm: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        dropouts = [dropout] * len(hidden)
        self.network = mlp(math.prod(self.input_shape), hidden, self.num_classes, dropouts, batch_norm)
