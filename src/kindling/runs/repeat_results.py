"""The summary of a repeat: per metric its mean, spread and interval, as a table and as a plot."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from kindling.runs.metric_names import split_of
from kindling.runs.plots import PALETTE, fit_label, save
from kindling.runs.repeat_statistics import Estimate, estimate
from kindling.utils.console import new_table
from kindling.utils.text import format_like

# Least and greatest possible values.
BOUNDED = ("accuracy", "balanced_accuracy", "f1", "map", "average_precision", "roc_auc")
LIMITS = dict.fromkeys(BOUNDED, (0.0, 1.0))
LIMITS |= {"loss": (0.0, math.inf), "mae": (0.0, math.inf), "rmse": (0.0, math.inf), "r2": (-math.inf, 1.0)}

Metrics = Mapping[str, Mapping[str, float]]  # value of each metric for each run


def summarize(metrics: Metrics, overlap: float) -> dict[str, dict[str, Any]]:
    """Return mean, std, interval and the single values of each metric; numbers that are not finite are None.

    For `overlap`, see `estimate`.
    """
    return {
        name: _plain(limited_estimate(name, [*values.values()], overlap)._asdict()) | {"values": _plain(values)}
        for name, values in metrics.items()
    }


def limited_estimate(name: str, values: Sequence[float], overlap: float) -> Estimate:
    """Return the mean of a metric with its interval, cut off at the limits of the metric.

    The t distribution knows no limits: the interval of two accuracies may reach beyond 1. As the true mean does not,
    the rest of the interval contains it with the same probability.
    """
    found = estimate(values, overlap)
    least, most = _limits(name)
    if not all(least <= value <= most for value in values):  # an accuracy in percent, or the loss of a density
        return found
    return found._replace(low=max(found.low, least), high=min(found.high, most))


def _limits(metric: str) -> tuple[float, float]:
    """Return the least and the greatest possible value of a metric."""
    return LIMITS.get(split_of(metric)[1], (-math.inf, math.inf))


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def repeat_table(title: str, summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with one row per metric."""
    table = new_table(title, "metric", "mean", "std", "95% interval", "runs")
    for name, found in summary.items():
        numbers = [math.nan if found[part] is None else found[part] for part in ("mean", "std", "low", "high")]
        is_share = _limits(name) == (0, 1) and 0 <= numbers[0] <= 1
        texts = format_like(0.5 if is_share else numbers[0], numbers)  # 1.0000 beside 0.9286
        mean, std, *ends = ("" if text == "nan" else text for text in texts)
        values = [value for value in found["values"].values() if value is not None]
        table.add_row(name, mean, std, " to ".join(filter(None, ends)), f"{len(values)}")
        if not {found["low"], found["high"]}.isdisjoint(_limits(name)):
            table.caption = "intervals end at the limits of their metrics: more runs make them narrower"
    return table


def plot_repeat(metrics: Metrics, overlap: float, folder: Path) -> Path:
    """Draw `repeat.png`: for each metric the value of each run, and the mean with its interval."""
    from matplotlib.figure import Figure  # takes 0.3 s to import

    shown = {name: values for name, values in metrics.items() if name.startswith("test/")} or metrics
    figure = Figure(figsize=(7, 0.7 + 0.75 * len(shown)), dpi=150, layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, shown.items(), strict=True):
        found = limited_estimate(name, [*values.values()], overlap)
        axes.plot([*values.values()], [0] * len(values), "o", color=PALETTE[0], alpha=0.6, ms=6, mew=0)
        errors = [[found.mean - found.low], [found.high - found.mean]]
        axes.errorbar(found.mean, 0.6, xerr=errors, fmt="D", color=PALETTE[1], ms=5, capsize=4)
        axes.set_ylim(-0.6, 1.2)
        axes.set_yticks([])
        axes.set_ylabel(fit_label(name, 24), rotation=0, ha="right", va="center")
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
    title = "/".join(folder.absolute().parts[-2:])
    panels[0].set_title(f"{fit_label(title, 50)}: runs, and mean with 95% confidence interval", loc="left", fontsize=10)
    return save(figure, folder / "repeat.png")
