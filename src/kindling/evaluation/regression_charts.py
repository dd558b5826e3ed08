"""Charts of the predictions and errors of a regression model, for the report and TensorBoard."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kindling.evaluation.charts import BLUE, GRAY, NAME_LENGTH, ORANGE, format_ticks, new_chart
from kindling.evaluation.regression import RegressionPredictions, group_errors, quantile_groups
from kindling.utils.tensors import evenly_spaced
from kindling.utils.text import shorten

POINTS = 3000  # more hide each other
BARS = (8, 40)  # of a histogram
GROUPS = 8  # of predictions, whose mean error is drawn


def prediction_chart(predictions: RegressionPredictions) -> Figure:
    """Return a chart of the predictions against the targets."""
    name = shorten(predictions.target.name, NAME_LENGTH)
    figure, axes = new_chart(f"{name}{predictions.target.suffix}", f"prediction{predictions.target.suffix}")
    _add_points(axes, predictions.targets, predictions.values)
    both = torch.stack([predictions.targets, predictions.values])
    low, high = both.min().item(), both.max().item()
    margin = 0.04 * (high - low) or 1.0
    axes.plot([low, high], [low, high], "--", color=GRAY, lw=1)
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    return figure


def error_chart(predictions: RegressionPredictions) -> Figure:
    """Return a chart of the errors against the predictions, and of their mean in groups of predictions."""
    unit = predictions.target.suffix
    figure, axes = new_chart(f"prediction{unit}", f"error{unit}")
    _add_points(axes, predictions.values, predictions.errors)
    axes.axhline(0, ls="--", color=GRAY, lw=1)
    groups = group_errors(predictions.errors, quantile_groups(predictions.values, GROUPS))
    means = [predictions.values[group.rows].mean().item() for group in groups]
    axes.plot(means, [group.bias for group in groups], "o-", color=ORANGE, ms=3, lw=1)
    return figure


def error_histogram(predictions: RegressionPredictions) -> Figure:
    """Return a chart of the number of samples by error; the bars at both ends include all errors beyond them."""
    figure, axes = new_chart(f"error{predictions.target.suffix}", "samples")
    errors = predictions.errors.numpy()
    low, middle_low, middle_high, high = np.quantile(errors, [0.002, 0.25, 0.75, 0.998])
    shown = np.clip(errors, low, high)
    # The rule of Freedman and Diaconis; NumPy would create all of its bars, which one wild target makes billions.
    width = 2 * (middle_high - middle_low) / len(errors) ** (1 / 3)
    bars = int(np.clip((high - low) / width if width else 1, *BARS))
    axes.hist(shown, bars, color=BLUE, rwidth=0.92)
    axes.axvline(0, ls="--", color=GRAY, lw=1)
    format_ticks(axes.xaxis, 4)
    format_ticks(axes.yaxis, 5, integer=True)
    return figure


def _add_points(axes: Axes, x: Tensor, y: Tensor) -> None:
    chosen = evenly_spaced(len(x), POINTS)
    alpha = max(0.15, min(0.8, 20 / len(chosen) ** 0.5))
    axes.scatter(x[chosen].numpy(), y[chosen].numpy(), s=8, color=BLUE, alpha=alpha, linewidths=0)
    format_ticks(axes.xaxis, 4)
    format_ticks(axes.yaxis, 5)
