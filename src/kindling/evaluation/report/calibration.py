"""The calibration section of the report: reliability diagram and histogram of confidences."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from kindling.evaluation.charts import BLUE, GREY, ORANGE, new_chart
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.report.html import Html, element, figure_element, join
from kindling.evaluation.statistics import BINS, Calibration, calibration, wilson

CENTERS = (np.arange(BINS) + 0.5) / BINS
WIDTH = 0.92 / BINS


def calibration_charts(predictions: Predictions) -> Html:
    """Return the expected calibration error, the reliability diagram and the histogram of confidences."""
    bins = calibration(predictions)
    mean, accuracy = predictions.confidence.mean().item(), predictions.correct.float().mean().item()
    summary = f"Expected calibration error (ECE) with {BINS} bins: {bins.error:.2%}. "
    summary += f"Mean confidence: {mean:.1%}; accuracy: {accuracy:.1%}."
    reliability = "Accuracy by confidence. Pale orange: overconfident; pale blue: underconfident; dashed: perfectly "
    reliability += "calibrated; vertical lines: 95% confidence intervals."
    charts = [
        figure_element(reliability_diagram(bins), "reliability diagram", reliability),
        figure_element(confidence_histogram(bins), "histogram of confidences", "Samples by confidence, log scale."),
    ]
    return join([element("p", summary), element("div", *charts, class_="charts")])


def reliability_diagram(bins: Calibration) -> Figure:
    """Return a chart of the accuracy in each bin, its interval, and the gap to the mean confidence."""
    figure, axes = confidence_chart("accuracy")
    filled = bins.samples > 0
    x, accuracy, confidence = CENTERS[filled], bins.accuracy[filled].numpy(), bins.confidence[filled].numpy()
    lower, gap = np.minimum(accuracy, confidence), np.abs(accuracy - confidence)
    axes.bar(x, lower, WIDTH, color=BLUE)
    colors = np.where(confidence > accuracy, ORANGE, BLUE).tolist()
    axes.bar(x, gap, WIDTH, bottom=lower, color=colors, alpha=0.4)
    samples = bins.samples[filled].double()
    axes.vlines(x, *wilson(bins.accuracy[filled] * samples, samples), color=GREY)
    axes.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def confidence_histogram(bins: Calibration) -> Figure:
    """Return a chart of the number of samples in each bin, on a log scale as most confidences are high."""
    figure, axes = confidence_chart("samples")
    axes.bar(CENTERS, bins.samples.numpy(), WIDTH, color=BLUE)
    axes.set(yscale="log", ylim=(0.5, None))  # a bar of a single sample is visible
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def confidence_chart(ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure whose x axis is the confidence, and its axes."""
    figure, axes = new_chart("confidence", ylabel)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure, axes
