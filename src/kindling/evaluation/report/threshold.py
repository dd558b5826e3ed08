"""The decision threshold in the report: which one, and the validation metric at others."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from kindling.evaluation.charts import BLUE, GREY, ORANGE, new_chart
from kindling.evaluation.report.html import Html, element, figure_element, join
from kindling.utils.decision_threshold import DecisionThreshold


def threshold_section(threshold: DecisionThreshold, names: Sequence[str]) -> Html:
    """Return what the threshold is and, if it was chosen on the validation split, how."""
    text = element("p", f"The model {threshold.describe(names)}.")
    if not threshold.curve:
        return text
    caption = f"{threshold.metric} on the validation split by threshold. Orange: the chosen one; dashed: 0.5."
    chart = figure_element(threshold_chart(threshold), f"{threshold.metric} by threshold", caption)
    return join([text, element("div", chart, class_="charts")])


def threshold_chart(threshold: DecisionThreshold) -> Figure:
    """Return a chart of the metric at each threshold."""
    figure, axes = new_chart("threshold", threshold.metric)
    axes.plot(np.linspace(0, 1, len(threshold.curve)), threshold.curve, color=BLUE)
    axes.axvline(0.5, color=GREY, lw=1, ls="--")
    axes.plot([threshold.value], [threshold.score], "o", color=ORANGE)
    axes.set_xlim(0, 1)
    return figure
