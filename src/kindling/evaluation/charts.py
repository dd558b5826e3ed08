"""The common style of the charts of the report and TensorBoard."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's palette, as in style.css
GREY = "#777c85"  # legible on the light and the dark page, as the charts are transparent


def new_chart(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure as wide as a phone, and its axes."""
    figure = Figure(figsize=(3.6, 3.2), dpi=240, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel, color=GREY, parse_math=False)
    axes.set_ylabel(ylabel, color=GREY, parse_math=False)
    axes.tick_params(colors=GREY, which="both", length=0, pad=6)
    axes.grid(axis="y", color=GREY, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return figure, axes
