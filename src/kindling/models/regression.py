"""The regression task."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection
from typing_extensions import override

from kindling.models.metrics import R2
from kindling.models.mlp import mlp
from kindling.models.task import BaseTask


class RegressionTask(BaseTask):
    """Base class for regression models.

    A subclass passes `**kwargs` to `super().__init__` and sets `self.network`. The network returns one standardized
    value per sample, shape (N, 1) or (N,); `forward` returns it in the units of the targets, shape (N,). Mean and
    standard deviation of the targets are computed from the training split and saved with the weights.

    Args:
        **kwargs: See `BaseTask`.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("target_mean", torch.tensor(0.0))
        self.register_buffer("target_std", torch.tensor(1.0))

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        targets: Tensor | None = getattr(data, "training_targets", None)
        if targets is not None:
            std = targets.float().std()
            self.target_mean.copy_(targets.float().mean())
            self.target_std.copy_(std if std > 0 else torch.tensor(1.0))

    @override
    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        outputs: Tensor = super().forward(*inputs, **kwargs)
        return self.target_mean + self.target_std * (outputs.squeeze(1) if outputs.ndim > 1 else outputs)

    @override
    def check_targets(self, outputs: Tensor, targets: Any) -> None:
        name = type(self).__name__
        if isinstance(targets, Tensor) and not targets.is_floating_point():
            raise ValueError(f"{name} predicts numbers, but the targets are classes: use a classifier")
        if isinstance(targets, Tensor) and targets.shape != outputs.shape:
            raise ValueError(
                f"{name} predicts one number per sample, but the targets have shape {tuple(targets.shape)}"
            )

    @override
    def metrics(self) -> MetricCollection:
        """Return the metrics of a stage, each updated with predictions (N,) and targets (N,)."""
        return MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False), "r2": R2()})

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of predictions (N,), divided by the variance of the training targets."""
        return F.mse_loss(outputs, targets) / self.target_std**2


class MLPRegressor(RegressionTask):
    """Multilayer perceptron for regression.

    Args:
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing a hidden activation, in [0, 1].
        batch_norm: Whether to normalize each hidden layer over the batch.
        **kwargs: See `RegressionTask`.
    """

    def __init__(
        self, hidden: tuple[int, ...] = (128,), dropout: float = 0.0, batch_norm: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.network = mlp(math.prod(self.input_shape), hidden, 1, dropout, batch_norm)
