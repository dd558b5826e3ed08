"""Predictions of a regression model and statistics of their errors, for the report and TensorBoard."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kindling.evaluation.statistics import Interval, bootstrap_means, random_blocks
from kindling.utils.text import shorten

GROUPS = 10  # of samples by target; fewer if a group would have fewer than GROUP_SIZE samples
GROUP_SIZE = 10
UNIT_LENGTH = 12  # characters


class Target(NamedTuple):
    """The target of a regression model.

    Attributes:
        name: Name of the column of a table; otherwise "target".
        unit: Its unit; empty if it has none.
    """

    name: str = "target"
    unit: str = ""

    @classmethod
    def of(cls, learned: Mapping[str, Any]) -> "Target":
        """Return the target that the fitted state of a data module describes."""
        target = learned.get("target") or {}
        units = target.get("units") or []
        return cls(target.get("name", "target"), shorten(units[0], UNIT_LENGTH) if len(units) == 1 else "")

    @property
    def suffix(self) -> str:
        """The unit in parentheses after a space, for headings and axes; empty if there is none."""
        return f" ({self.unit})" if self.unit else ""


UNNAMED = Target()


@dataclass(frozen=True)
class RegressionPredictions:
    """Predictions of a regression model for N samples with known targets.

    Args:
        values: Predicted values in the units of the targets, shape (N,); NaN from a model that diverged.
        targets: True values, shape (N,).
        target: What is predicted.
    """

    values: Tensor
    targets: Tensor
    target: Target = UNNAMED

    @cached_property
    def errors(self) -> Tensor:
        """Prediction minus target, shape (N,), float64."""
        return self.values.double() - self.targets.double()

    @cached_property
    def finite(self) -> "RegressionPredictions":
        """The predictions without those whose errors are NaN or infinite."""
        rows = self.errors.isfinite()
        return RegressionPredictions(self.values[rows], self.targets[rows], self.target)

    def worst(self, number: int) -> Tensor:
        """Return the indices of the predictions with the largest absolute errors, largest first, NaN before all."""
        return self.errors.abs().argsort(descending=True, stable=True)[:number]

    def best(self, number: int) -> Tensor:
        """Return the indices of the predictions with the smallest absolute errors, smallest first."""
        return self.errors.abs().argsort(stable=True)[:number]


def error_intervals(predictions: RegressionPredictions, losses: Tensor) -> dict[str, Interval]:
    """Return 95% bootstrap intervals by the name of the metric; `losses` are those of `random_blocks`, shape (B,)."""
    errors, targets = predictions.errors, predictions.targets.double()
    centered = targets - targets.mean()
    samples = torch.stack([errors.abs(), errors**2, centered, centered**2], dim=1)  # (N, 4)
    blocks = torch.stack([samples[rows].mean(dim=0) for rows in random_blocks(len(samples))])  # (B, 4)
    resampled = _metrics(bootstrap_means(torch.cat([blocks, losses.double().unsqueeze(1)], dim=1)))
    with np.errstate(invalid="ignore"):  # R² of equal targets is minus infinity
        ends = {name: np.quantile(values.numpy(), [0.025, 0.975]) for name, values in resampled.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _metrics(means: Tensor) -> dict[str, Tensor]:
    """Return metrics for the means (..., 5) of |error|, error², target, target² and loss."""
    mae, mse, target, squared_target, loss = means.unbind(-1)
    return {"mae": mae, "rmse": mse.sqrt(), "r2": 1 - mse / (squared_target - target**2), "loss": loss}


class ErrorGroup(NamedTuple):
    """The errors of some samples.

    Attributes:
        rows: Indices of the samples, shape (n,).
        mae: Mean absolute error.
        bias: Mean error; positive if the predictions are too high.
    """

    rows: Tensor
    mae: float
    bias: float


def group_errors(errors: Tensor, groups: Tensor) -> list[ErrorGroup]:
    """Return the errors (N,) of each group, given the group of each sample (N,), integers."""
    rows = [(groups == group).nonzero().squeeze(1) for group in sorted({*groups.tolist()})]
    return [ErrorGroup(each, errors[each].abs().mean().item(), errors[each].mean().item()) for each in rows]


def errors_by_target(predictions: RegressionPredictions) -> list[ErrorGroup]:
    """Return the errors in groups of about equal size, by increasing target."""
    number = min(GROUPS, max(1, len(predictions.targets) // GROUP_SIZE))
    return group_errors(predictions.errors, quantile_groups(predictions.targets, number))


def quantile_groups(values: Tensor, number: int) -> Tensor:
    """Return the group (N,) of each value, 0 for the lowest: groups of about equal size; equal values share one."""
    ordered = values.sort().values
    edges = ordered[torch.arange(1, number) * len(values) // number]
    return torch.bucketize(values.contiguous(), torch.unique_consecutive(edges), right=True)
