"""Plots of metrics and learning rates by epoch, for one run or several."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from kindling.runs.history import Points, read_history, read_learning_rates
from kindling.runs.metadata import RunMetadata
from kindling.utils.files import atomic_write
from kindling.utils.text import format_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, for color-blind readers and print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
SPLIT_COLORS = {"train": PALETTE[0], "val": PALETTE[1]}
LABELS = {"train": "training", "val": "validation"}
TRAINING_STATISTICS = ("lr", "gradient_norm", "samples_per_second", "memory_gb", "gpu_memory_gb")
UNITS = {"accuracy": "accuracy (%)"}


def plot_history(run: str | Path) -> Path:
    """Draw `training_history.png` of a run from its `metrics.csv`.

    It shows loss and accuracy, or else the first other validation metric. If no metric belongs to a split, it shows all
    losses in one panel, and the first other metric in another.
    """
    from matplotlib.figure import Figure  # takes 0.3 s to import

    run = Path(run)
    history, rates = read_history(run / "metrics.csv"), read_learning_rates(run / "metrics.csv")
    best = RunMetadata.read(run).best_epoch
    metrics = [name for name in history if "/" not in name and name not in TRAINING_STATISTICS]
    by_split = any(name.startswith(("train/", "val/")) for name in history)
    names = list(plotted_metrics(history)) if by_split or not metrics else _panels_without_splits(metrics)
    heights = [3.0] * len(names) + ([1.6] if rates else [])
    figure = Figure(figsize=(7, 1 + sum(heights)), dpi=150, layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, metric in zip(panels, names, strict=False):
        if by_split or not metrics:
            draw_splits(axes, history, metric, best)
        else:
            draw_metrics(axes, {name: history[name] for name in metrics if metric in name}, metric)
    if rates:
        draw_learning_rates(panels[-1], rates)
        mark_best(panels[-1], best, {}, "")
    curves = [curve for name, curve in history.items() if name in metrics or name.startswith(("train/", "val/"))]
    epochs = max((epoch for curve in curves for epoch in curve), default=0) + 1
    style_axes(panels, max(epochs, *(x for points in rates.values() for x, _ in points), 1))
    panels[0].set_title(fit_label("/".join(run.absolute().parts[-2:]), 85), loc="left", fontsize=10)
    return save(figure, run / "training_history.png")


def _panels_without_splits(metrics: Sequence[str]) -> list[str]:
    """Return the panels for metrics without a split: one for all losses, and one for the first other metric."""
    others = [name for name in metrics if "loss" not in name]
    return others[:1] if len(others) == len(metrics) else ["loss", *others[:1]]


def draw_metrics(axes: "Axes", curves: Mapping[str, Mapping[int, float]], metric: str) -> None:
    """Draw metrics without a split, one line each."""
    for number, (name, curve) in enumerate(curves.items()):
        draw_curve(axes, curve, metric, color=PALETTE[number % len(PALETTE)], label=name)
    if curves:
        axes.legend(frameon=False)


def fit_label(name: str, max_width: int) -> str:
    """Return a name as a label in a plot: without its middle if it is too wide, and with escaped dollar signs."""
    width = cell_len(name)
    if width > max_width:
        half = max_width * len(name) // (2 * width)
        name = f"{name[:half]}…{name[-half:]}"
    return name.replace("$", r"\$")


def save(figure: "Figure", path: Path) -> Path:
    """Write a plot as PNG, without warnings about characters that the font lacks."""
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(temporary, format="png")
    return path


def plotted_metrics(*histories: Mapping[str, Mapping[int, float]]) -> tuple[str, str]:
    """Return the metrics to plot: loss and accuracy, or for models without it, the first other validation metric."""
    names = [name.partition("/")[2] for history in histories for name in history if name.startswith("val/")]
    others = [name for name in names if name != "loss"]
    return "loss", "accuracy" if "accuracy" in others or not others else others[0]


def draw_splits(axes: "Axes", history: Mapping[str, Mapping[int, float]], metric: str, best: int | None) -> None:
    """Draw a metric on the training and validation splits, and mark the best epoch and values that are not finite."""
    curves = {split: history.get(f"{split}/{metric}", {}) for split in LABELS}
    for split, curve in curves.items():
        draw_curve(axes, curve, metric, color=SPLIT_COLORS[split], label=LABELS[split])
    mark_best(axes, best, curves["val"], metric)
    values = {epoch: value for curve in curves.values() for epoch, value in curve.items()}
    gaps = [epoch + 1 for curve in curves.values() for epoch, value in curve.items() if not math.isfinite(value)]
    for number, epoch in enumerate(sorted(set(gaps))):
        label = "not a finite number" if number == 0 else None
        axes.axvspan(epoch - 0.5, epoch + 0.5, color="0.9", lw=0, zorder=0, label=label)
    if not any(map(math.isfinite, values.values())):
        axes.set_yticks([])
    if values:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "no complete epoch", transform=axes.transAxes, ha="center", color="0.4")


def draw_curve(axes: "Axes", curve: Mapping[int, float], metric: str, **style: Any) -> None:
    """Draw a metric by epoch, with markers if there are few epochs; accuracy in percent."""
    axes.set_ylabel(UNITS.get(metric, metric))
    scale = 100 if metric == "accuracy" else 1
    style = {"marker": "o" if len(curve) <= 25 else "", "ms": 3.5} | style
    if curve:
        axes.plot([epoch + 1 for epoch in curve], [scale * value for value in curve.values()], **style)


def mark_best(axes: "Axes", best: int | None, curve: Mapping[int, float], metric: str) -> None:
    """Mark the epoch of the best checkpoint by a vertical line, and by a ring on the validation curve."""
    if best is None:
        return
    axes.axvline(best, color="0.45", lw=1, ls=":", zorder=1)
    value = curve.get(best - 1, math.nan) * (100 if metric == "accuracy" else 1)
    if math.isfinite(value):
        text = f"{value:.2f}%" if metric == "accuracy" else format_metric(value)
        label = f"best epoch: {best} ({text})"
        axes.plot(best, value, "o", ms=9, mfc="none", mec="0.1", mew=1.3, ls="none", label=label, zorder=5)


def draw_learning_rates(axes: "Axes", rates: Mapping[str, Points]) -> None:
    """Draw the learning rate of each parameter group, as steps if it is piecewise constant."""
    for number, (name, points) in enumerate(sorted(rates.items()) if len(rates) > 1 else rates.items()):
        values = [rate for _, rate in points]
        in_steps = len(set(values)) <= len(values) / 2 or len(values) == 1
        if in_steps:
            points = [(math.ceil(points[0][0]) - 1, values[0]), *points]  # a frozen group starts later
        color = PALETTE[2 + number % (len(PALETTE) - 2)]
        style = "steps-pre" if in_steps else "default"
        label = name.removeprefix("lr/")
        label = f"optimizer {label}" if label.isdigit() else label
        axes.plot(*zip(*points, strict=True), color=color, drawstyle=style, label=label)
        if in_steps and min(values) > 0 and max(values) >= 5 * min(values):
            axes.set_yscale("log")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    if len(rates) > 1:
        axes.legend(frameon=False)
    axes.set_ylabel("learning rate")
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.3g}")


def style_axes(panels: Any, epochs: float) -> None:
    """Set the epoch axis, the grid and the spines of all panels."""
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("epoch")
    panels[-1].set_xlim(0, epochs + max(0.02 * epochs, 0.1))
    panels[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def plot_runs(histories: Mapping[str, Mapping[str, Mapping[int, float]]], path: Path) -> Path:
    """Draw the histories of runs, by their names: one color per run, validation solid, training dashed.

    From the ninth run on, colors repeat with other markers.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = max(1, min(len(histories), 3, 110 // max(map(cell_len, histories), default=1)))
    figure = Figure(figsize=(10, 4 + 0.22 * math.ceil(len(histories) / columns)), dpi=150, layout="constrained")
    panels, lines = figure.subplots(1, 2), []
    for number, (name, history) in enumerate(histories.items()):
        color = PALETTE[number % len(PALETTE)]
        marker = ("none", "o", "s", "^", "D", "v")[number // len(PALETTE) % 6]
        style: dict[str, Any] = {"color": color, "marker": marker, "ms": 4}
        for axes, metric in zip(panels, plotted_metrics(*histories.values()), strict=True):
            draw_curve(axes, history.get(f"train/{metric}", {}), metric, **style, ls="--", lw=1, alpha=0.7)
            draw_curve(axes, history.get(f"val/{metric}", {}), metric, **style)
        lines.append(Line2D([], [], label=fit_label(name, 110), **style))
    splits = [
        Line2D([], [], color="0.3", label="validation"),
        Line2D([], [], color="0.3", ls="--", lw=1, label="training"),
    ]
    panels[0].legend(handles=splits, frameon=False)
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False)
    curves = [curve for history in histories.values() for curve in history.values()]
    epochs = max((epoch + 1 for curve in curves for epoch in curve), default=1)
    for axes in panels:
        style_axes([axes], epochs)
    return save(figure, path)
