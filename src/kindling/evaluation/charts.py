"""The common style of the charts of the report and TensorBoard."""

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from kindling.runs.plots import PALETTE

BLUE, ORANGE, GREEN, PINK = PALETTE[:4]  # as in style.css
GRAY = "#777c85"  # legible on the light and the dark page, as the charts are transparent
SHORT = 100_000  # from here, ticks are labelled as 250k or 1.5M
NAME_LENGTH = 24  # characters of the name of a column on an axis


def new_chart(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure as wide as a phone, and its axes."""
    figure = Figure(figsize=(3.6, 3.2), dpi=240, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel, color=GRAY, parse_math=False)
    axes.set_ylabel(ylabel, color=GRAY, parse_math=False)
    axes.tick_params(colors=GRAY, which="both", length=0, pad=6)
    axes.grid(axis="y", color=GRAY, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return figure, axes


def format_ticks(axis: Axis, ticks: int, integer: bool = False) -> None:
    """Label an axis of numbers, or of integers such as counts, with about as many ticks."""
    axis.set_major_locator(MaxNLocator(ticks, integer=integer))
    is_long = max(map(abs, axis.get_view_interval())) >= SHORT
    axis.set_major_formatter(EngFormatter(sep="") if is_long else FuncFormatter(lambda value, _: f"{value:,.6g}"))
