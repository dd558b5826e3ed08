"""TabM for tables: classification and regression."""

import math
from typing import Any

from torch import Tensor
from typing_extensions import override

from kindling.models.averages import mean_output, mean_probability
from kindling.models.classification import ClassificationTask
from kindling.models.mlp_base import dropouts
from kindling.models.regression import RegressionTask
from kindling.models.tabm_network import TabM
from kindling.models.task import BaseTask
from kindling.utils.hyperparameters import check_range

MAX_BIN_ROWS = 100_000  # training rows from which bins are learned


class TabMModel(BaseTask):
    """An ensemble of multilayer perceptrons with embeddings of numbers, to be combined with a task.

    Trains each member of a `TabM` network by itself, and evaluates their average.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing a hidden activation, in [0, 1).
        numeric_features: Indices of the features that are numbers, which are embedded; all by default.
        members: Number of networks, which share most of their weights.
        bins: Pieces of the function that embeds a number, between quantiles of its training values.
        embedding: Number of values that a number becomes.
        **kwargs: See the task.

    Raises:
        ValueError: If an argument is out of its range.
    """

    network: TabM

    def __init__(
        self,
        hidden: tuple[int, ...] = (128, 128),
        dropout: float = 0.2,
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
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.members = members
        features, by_layer = math.prod(self.input_shape), dropouts(self, dropout, len(hidden))
        numbers = range(features) if numeric_features is None else numeric_features
        average = mean_probability if self.task == "classification" else mean_output
        self.network = TabM(features, self.num_outputs, numbers, hidden, by_layer, members, bins, embedding, average)

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


class TabMRegressor(TabMModel, RegressionTask):
    """TabM for regression: an ensemble of multilayer perceptrons with embeddings of numbers.

    See `TabMModel` and `RegressionTask`. `dropout` applies to the last hidden layer only.
    """

    data_arguments = (*RegressionTask.data_arguments, "numeric_features")


class TabMClassifier(TabMModel, ClassificationTask):
    """TabM for classification: an ensemble of multilayer perceptrons with embeddings of numbers.

    See `TabMModel` and `ClassificationTask`.
    """

    data_arguments = (*ClassificationTask.data_arguments, "numeric_features")
    regressor = TabMRegressor
