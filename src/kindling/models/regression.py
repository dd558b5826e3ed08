"""The regression task, and a multilayer perceptron for it."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection
from typing_extensions import override

from kindling.models.metrics import R2
from kindling.models.mlp_base import MLPModel
from kindling.models.task import BaseTask
from kindling.utils.text import join_names

LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {  # of errors (N,), predictions minus targets; and a quantile
    "mse": lambda errors, _: errors**2,
    "mae": lambda errors, _: errors.abs(),
    "huber": lambda errors, _: F.huber_loss(errors, torch.zeros_like(errors), reduction="none"),
    "quantile": lambda errors, quantile: torch.maximum((1 - quantile) * errors, -quantile * errors),
}


NORMAL_WIDTH = 3.29  # standard deviations between the 5% and the 95% quantile of a normal distribution


class RegressionTask(BaseTask):
    """Base class for regression models.

    A subclass passes `**kwargs` to `super().__init__` and sets `self.network`. The network returns one standardized
    value per sample, shape (N, 1) or (N,); `forward` returns it in the units of the targets, shape (N,). Mean and
    standard deviation of the targets are computed from the training split and saved with the weights.

    Args:
        loss_function: The loss of the standardized error: mse (squared error), mae (absolute error), huber (squared up
            to one standard deviation of the targets, absolute beyond) or quantile (the model predicts a quantile).
        quantile: The quantile that the loss `quantile` predicts, between 0 and 1: 0.9 is exceeded by 10% of the
            targets.
        **kwargs: See `BaseTask`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    task = "regression"
    num_outputs = 1
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        *,
        loss_function: Literal["mse", "mae", "huber", "quantile"] = "mse",
        quantile: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if loss_function not in LOSSES:
            raise ValueError(f"loss_function must be one of {join_names([*LOSSES])}, got {loss_function}")
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be between 0 and 1, got {quantile}")
        if quantile != 0.5 and loss_function != "quantile":
            raise ValueError(f"quantile has no effect with loss_function {loss_function}: use loss_function quantile")
        self.loss_function = loss_function
        self.quantile = quantile
        self.register_buffer("target_mean", torch.tensor(0.0))
        self.register_buffer("target_std", torch.tensor(1.0))

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if (precision := self.trainer.precision) in ("bf16-true", "16-true"):
            raise ValueError(
                f"--trainer.precision {precision} rounds targets to 16 bits, which is too coarse for numbers: use "
                f"{precision.replace('true', 'mixed')}"
            )
        if stage != "fit":
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        if (targets := getattr(data, "training_targets", None)) is not None:
            self.standardize(targets)

    def standardize(self, targets: Tensor) -> None:
        """Set mean and standard deviation of the targets to those of training targets (N,).

        For losses other than mse, both are estimated from quantiles, which outliers do not move.
        """
        targets = targets.double()
        mean, std = targets.mean(), targets.std()
        if self.loss_function != "mse":
            low, median, high = np.quantile(targets.numpy(), (0.05, 0.5, 0.95))
            if high > low:
                mean, std = torch.tensor(median), torch.tensor((high - low) / NORMAL_WIDTH)
        self.target_mean.copy_(mean)
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
        """Return the mean loss of predictions (N,) and targets (N,), both in units of the standard deviation."""
        errors = (outputs - targets) / self.target_std
        return LOSSES[self.loss_function](errors, self.quantile).mean()


class MLPRegressor(MLPModel, RegressionTask):
    """Multilayer perceptron for regression.

    See `MLPModel` and `RegressionTask`. `dropout` applies to the last hidden layer only.
    """
