"""The calibration section of the report: reliability diagram and histogram of confidences."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter
from torch import Tensor

from kindling.evaluation.charts import BLUE, GRAY, ORANGE, format_ticks, new_chart
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.report.html import Html, element, figure_element, join
from kindling.evaluation.statistics import BINS, Calibration, calibration, wilson
from kindling.utils.text import join_names

CENTERS = (np.arange(BINS) + 0.5) / BINS
WIDTH = 0.92 / BINS
LINEAR = 20  # samples in a bin, up to which a linear scale shows every bar
SAME = 0.02  # relative difference of two losses that needs no explanation
SMALLEST = torch.finfo(torch.float32).tiny  # a single probability of 0 is no infinite loss


def calibration_section(predictions: Predictions, temperatures: Tensor, fits: bool, loss: float) -> Html:
    """Return how well probabilities match frequencies, with and without the softmax temperature.

    `temperatures` are what the logits of each sample were divided by, (N, 1), which the validation split chose if
    `fits`; `loss` is the reported test loss.
    """
    bins, raw = calibration(predictions), None
    summary = f"Expected calibration error (ECE) with {BINS} bins: {bins.error:.2%}. {describe(predictions)}"
    reason = "no other one is clearly better on the validation split" if fits else "it was set"
    explanation = f"The softmax temperature is 1: {reason}."
    if (temperatures != 1).any():
        found = dict.fromkeys(f"{value:.3g}" for value in temperatures.flatten().tolist())
        explanation = f"The logits are divided by the softmax temperature, {join_names([*found])}."
        if before := predictions.uncalibrated(temperatures):
            raw = calibration(before)
            explanation += f" Without it: ECE {raw.error:.2%}. {describe(before)}"
    if abs(loss - log_loss(predictions)) > SAME * loss:
        explanation += (
            " The loss at the top differs from the log loss, which compares the probabilities with the labels:"
        )
        explanation += " it is that of training, with label smoothing and class weights, and without the temperature."
    return join([element("p", summary), element("p", explanation, class_="soft"), calibration_charts(bins, raw)])


def describe(predictions: Predictions) -> str:
    """Return the mean confidence, the accuracy and the log loss in words."""
    mean, accuracy = predictions.confidence.mean().item(), predictions.correct.float().mean().item()
    return f"Mean confidence: {mean:.1%}; accuracy: {accuracy:.1%}; log loss: {log_loss(predictions):.4f}."


def log_loss(predictions: Predictions) -> float:
    """Return the mean negative logarithm of the probability of the label."""
    return -predictions.of_label.clamp(min=SMALLEST).log().mean().item()


def calibration_charts(bins: Calibration, raw: Calibration | None) -> Html:
    """Return the reliability diagram, that without temperature, and the histogram of confidences."""
    note = "Accuracy by confidence. Pale orange: overconfident; pale blue: underconfident; dashed: perfectly "
    note += "calibrated; vertical lines: 95% confidence intervals."
    charts = [figure_element(reliability_diagram(bins), "reliability diagram", note)]
    if raw is not None:
        without = "The same without the softmax temperature."
        charts.append(figure_element(reliability_diagram(raw), "reliability diagram without temperature", without))
    note = "Samples by confidence, log scale." if is_log_scale(bins) else "Samples by confidence."
    charts.append(figure_element(confidence_histogram(bins), "histogram of confidences", note))
    return element("div", *charts, class_="charts")


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
    axes.vlines(x, *wilson(bins.accuracy[filled] * samples, samples), color=GRAY)
    axes.plot([0, 1], [0, 1], "--", color=GRAY, lw=1)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def is_log_scale(bins: Calibration) -> bool:
    """Return whether there are so many samples that bars of a few need a log scale, as most confidences are high."""
    return bins.samples.max().item() > LINEAR


def confidence_histogram(bins: Calibration) -> Figure:
    """Return a chart of the number of samples in each bin."""
    figure, axes = confidence_chart("samples")
    axes.bar(CENTERS, bins.samples.numpy(), WIDTH, color=BLUE)
    if is_log_scale(bins):
        axes.set(yscale="log", ylim=(0.5, None))  # a bar of a single sample is visible
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    else:
        format_ticks(axes.yaxis, 5, integer=True)
    return figure


def confidence_chart(ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure whose x axis is the confidence, and its axes."""
    figure, axes = new_chart("confidence", ylabel)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure, axes
