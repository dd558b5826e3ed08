"""TabM for tables: classification and regression."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from kindling.models.classification import ClassificationTask
from kindling.models.regression import RegressionTask
from kindling.models.tabm import TabM, mean_prediction, mean_probability
from kindling.models.task import BaseTask
from kindling.utils.hyperparameters import check_range

MAX_BIN_ROWS = 100_000  # training rows from which bins are learned


class TabMTask(BaseTask):
    """Trains each member of a `TabM` network by itself, and evaluates their average.

    Args:
        numeric_features: Indices of the features that are numbers, which are embedded; all by default.
        members: Number of networks, which share most of their weights.
        bins: Pieces of the function that embeds a number, between quantiles of its training values.
        embedding: Number of values that a number becomes.
        **kwargs: See `BaseTask`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    network: TabM

    def __init__(
        self,
        *,
        numeric_features: tuple[int, ...] | None = None,
        members: int = 4,
        bins: int = 32,
        embedding: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in {"members": members, "bins": bins, "embedding": embedding}.items():
            check_range(name, value, 1)
        self.numeric_features = numeric_features
        self.members, self.bins, self.embedding = members, bins, embedding

    def build(
        self, hidden: Sequence[int], dropout: Sequence[float], outputs: int, average: Callable[[Tensor], Tensor]
    ) -> TabM:
        """Return the network for the input shape; `dropout` has a probability for each hidden layer."""
        if not all(0 <= probability < 1 for probability in dropout):
            raise ValueError(f"dropout must be in [0, 1), got {dropout[-1]}")
        features = math.prod(self.input_shape)
        numbers = range(features) if self.numeric_features is None else self.numeric_features
        return TabM(features, outputs, numbers, hidden, dropout, self.members, self.bins, self.embedding, average)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and (inputs := getattr(data, "training_inputs", None)) is not None:
            rows = inputs[:: len(inputs) // MAX_BIN_ROWS + 1]
            self.network.learn_bins(self.normalize(rows))

    @override
    def loss_and_outputs(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        if not self.training:
            return super().loss_and_outputs(inputs, targets)
        stacked = self.outputs_for(inputs)  # (members * N, ...)
        self.check_targets(stacked[: len(targets)], targets)
        loss = self.loss(stacked, targets.repeat(self.members))
        return loss, self.network.average(stacked.detach().unflatten(0, (self.members, -1)))


class TabMRegressor(TabMTask, RegressionTask):
    """TabM for regression: an ensemble of multilayer perceptrons with embeddings of numbers.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing an activation of the last hidden layer, in [0, 1). In earlier layers, it would
            bias the predictions.
        **kwargs: See `TabMTask` and `RegressionTask`.
    """

    data_arguments = (*RegressionTask.data_arguments, "numeric_features")

    def __init__(self, hidden: tuple[int, ...] = (128, 128), dropout: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        dropouts = [*[0.0] * (len(hidden) - 1), dropout][: len(hidden)]
        self.network = self.build(hidden, dropouts, 1, mean_prediction)


class TabMClassifier(TabMTask, ClassificationTask):
    """TabM for classification: an ensemble of multilayer perceptrons with embeddings of numbers.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing a hidden activation, in [0, 1).
        **kwargs: See `TabMTask` and `ClassificationTask`.
    """

    data_arguments = (*ClassificationTask.data_arguments, "numeric_features")
    regressor = TabMRegressor

    def __init__(self, hidden: tuple[int, ...] = (128, 128), dropout: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = self.build(hidden, [dropout] * len(hidden), self.num_classes, mean_probability)
