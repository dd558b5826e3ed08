"""Charts of partial dependence, for the report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from kindling.data.tables.scaling import unscale
from kindling.evaluation.charts import BLUE, GRAY, GREEN, NAME_LENGTH, ORANGE, PINK, format_ticks, new_chart
from kindling.evaluation.dependence import Dependence
from kindling.evaluation.features import Feature
from kindling.utils.text import shorten

CLASS_COLORS = (BLUE, ORANGE, GREEN, PINK)  # of the classes that move most
BAND = (0.1, 0.9)  # quantiles of the samples
RUG = 200  # samples whose values are marked below a curve
CLOCK_DAYS = 42  # a column of times holds at most 1000 hours

Floats = NDArray[np.floating[Any]]


class Output(NamedTuple):
    """The predicted quantity.

    Attributes:
        label: Name with the unit, for an axis.
        classes: Names of the classes; empty for regression.
    """

    label: str
    classes: Sequence[str] = ()


class Curve(NamedTuple):
    """A predicted number, or the probability of one class, for each value of a feature.

    Attributes:
        label: Name of the class; empty for a number.
        color: Its color.
        means: Means of the samples, shape (V,).
        low: The lower end of the middle 80% of the samples, each shifted to the mean of all; shape (V,).
        high: The upper end.
    """

    label: str
    color: str
    means: Floats
    low: Floats
    high: Floats


def dependence_chart(
    dependence: Dependence, column: Mapping[str, Any], output: Output, labels: Sequence[str]
) -> Figure:
    """Return a chart of the mean predictions by the values of a column; `labels` (V,) are the categories."""
    curves = _curves(dependence, output)
    shown = curves[0].label and len(curves) == 1
    ylabel = f"probability of {shorten(curves[0].label, NAME_LENGTH)}" if shown else output.label
    name = shorten(column["name"], NAME_LENGTH)
    if dependence.feature.is_category:
        return _category_chart(curves, [shorten(label, NAME_LENGTH) for label in labels], name, ylabel, output)
    values = dependence.feature.values[:, 0]
    x, unit = _axis_values(values[dependence.samples].numpy(), column)
    figure, axes = new_chart(f"{name}{unit}", ylabel)
    for curve in curves:
        if len(curves) == 1:
            axes.fill_between(x, curve.low, curve.high, color=curve.color, alpha=0.2, linewidth=0)
        axes.plot(x, curve.means, "-" if len(x) > 2 else "o-", color=curve.color, lw=1.8, label=curve.label)
    axes.margins(x=0.02)
    _add_rug(axes, dependence.feature, column, x)
    if column["kind"] == "date" and unit == "":
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]  # it warns at fewer
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.xaxis.get_offset_text().set_color(GRAY)
    else:
        format_ticks(axes.xaxis, 4)
    _format_output(axes.yaxis, output)
    _add_legend(figure, axes, curves)
    return figure


def _curves(dependence: Dependence, output: Output) -> list[Curve]:
    """Return one curve for a number or two classes; else those of up to four classes whose probability moves most."""
    predictions = dependence.predictions.double().numpy()
    if not output.classes:
        return [_curve("", BLUE, predictions)]
    if len(output.classes) == 2:
        return [_curve(output.classes[1], BLUE, predictions[:, :, 1])]
    moves = np.ptp(predictions.mean(axis=1), axis=0)
    chosen = sorted(np.argsort(-moves, kind="stable")[: len(CLASS_COLORS)])
    return [
        _curve(output.classes[position], color, predictions[:, :, position])
        for position, color in zip(chosen, CLASS_COLORS, strict=False)
    ]


def _curve(label: str, color: str, predictions: Floats) -> Curve:
    shifted = predictions - predictions.mean(axis=0) + predictions.mean()
    low, high = np.quantile(shifted, BAND, axis=1)
    if label:
        low, high = low.clip(0, 1), high.clip(0, 1)
    return Curve(label, color, predictions.mean(axis=1), low, high)


def _axis_values(features: NDArray[np.float32], column: Mapping[str, Any]) -> tuple[Any, str]:
    """Return scaled numbers or days as the values of an axis, and their unit in parentheses after a space."""
    values = unscale(features, dict(column))
    if column["kind"] == "number":
        units = column.get("units", ())
        return values, f" ({units[0]})" if len(units) == 1 else ""
    if values.max() < CLOCK_DAYS:
        return 24 * values, " (hours)"
    return np.datetime64("0001-01-01", "s") + (86400 * values).astype("timedelta64[s]"), ""


def _add_rug(axes: Axes, feature: Feature, column: Mapping[str, Any], x: Any) -> None:
    """Mark the values of samples at the lower edge."""
    known = feature.values[~feature.missing, 0]
    values, _ = _axis_values(known[:: len(known) // RUG + 1].numpy(), column)
    values = values[(values >= x[0]) & (values <= x[-1])]
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.05 * (high - low), high)
    axes.plot(values, np.full(len(values), 0.02), "|", transform=axes.get_xaxis_transform(), color=GRAY, ms=6, mew=0.6)


def _category_chart(curves: Sequence[Curve], labels: Sequence[str], name: str, xlabel: str, output: Output) -> Figure:
    """Return a chart with a bar for each category from the mean prediction, or a dot for each class."""
    figure, axes = new_chart(xlabel, name)
    axes.grid(visible=False)
    axes.grid(axis="x", color=GRAY, alpha=0.3)
    places = np.arange(len(labels))
    for curve in curves:
        if len(curves) > 1:
            axes.plot(curve.means, places, "o", color=curve.color, ms=5, label=curve.label)
            continue
        base = curve.means.mean()
        colors = [BLUE if mean >= base else ORANGE for mean in curve.means]
        axes.barh(places, curve.means - base, 0.7, left=base, color=colors)
        axes.hlines(places, curve.low, curve.high, color=GRAY, lw=1.2)
        axes.axvline(base, ls="--", color=GRAY, lw=1)
    axes.set_yticks(places, labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _format_output(axes.xaxis, output)
    _add_legend(figure, axes, curves)
    return figure


def _format_output(axis: Axis, output: Output) -> None:
    format_ticks(axis, 4)
    if output.classes:
        axis.set_major_formatter(PercentFormatter(1))


def _add_legend(figure: Figure, axes: Axes, curves: Sequence[Curve]) -> None:
    if len(curves) > 1:
        handles = axes.get_legend_handles_labels()[0]
        names = [shorten(curve.label, NAME_LENGTH) for curve in curves]
        legend = figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False, labelcolor=GRAY)
        for text in legend.get_texts():
            text.set_parse_math(False)
