"""The charts of the report: inline SVG whose colours are those of the page."""

import math
from collections.abc import Iterator

from kindling.evaluation.report.html import Html, element
from kindling.evaluation.report.statistics import BINS, Calibration, wilson
from kindling.utils.text import count_noun

# Pixels on a phone; a wide screen shows them up to a quarter larger.
WIDTH, LEFT, RIGHT, TOP = 340, 50, 8, 10
HEIGHT = WIDTH - LEFT - RIGHT
BAR = (WIDTH - LEFT - RIGHT) / BINS


def reliability_diagram(calibration: Calibration) -> Html:
    """Accuracy against confidence in bins, the gap between them, and the interval of each accuracy."""

    def y(share: float) -> float:
        return round(TOP + HEIGHT * (1 - share), 1)

    bars = []
    for x, samples, title, accuracy, confidence in _filled_bins(calibration):
        both, gap = min(accuracy, confidence), "over" if confidence > accuracy else "under"
        low, high = wilson(round(accuracy * samples), samples)
        bars.append(
            element(
                "g",
                element("title", f"{title}, {accuracy:.1%} right"),
                _rect(x, y(both), BAR - 2, HEIGHT * both, "blue"),
                _rect(x, y(max(accuracy, confidence)), BAR - 2, HEIGHT * abs(accuracy - confidence), gap),
                _line(x + BAR / 2 - 1, y(low), x + BAR / 2 - 1, y(high), "whisker"),
            )
        )
    grid = [_tick_y(y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    diagonal = _line(LEFT, y(0), WIDTH - RIGHT, y(1), "diagonal")
    return _chart("reliability diagram", *grid, *bars, diagonal)


def confidence_histogram(calibration: Calibration) -> Html:
    """Number of samples by confidence, on a logarithmic scale: most are sure, and the others are of interest."""
    decades = math.ceil(math.log10(max(2, int(calibration.samples.max()))))
    least = 0.3  # half a decade below one sample, which so has a bar to see

    def y(samples: float) -> float:
        return round(TOP + HEIGHT * (1 - (math.log10(samples) + least) / (decades + least)), 1)

    bars = [
        element("g", element("title", title), _rect(x, y(samples), BAR - 2, TOP + HEIGHT - y(samples), "blue"))
        for x, samples, title, *_ in _filled_bins(calibration)
    ]
    grid = [_tick_y(y(10**power), f"{10**power:,}") for power in range(decades + 1)]
    return _chart("histogram of confidences", *grid, *bars)


def _filled_bins(calibration: Calibration) -> Iterator[tuple[float, int, str, float, float]]:
    """Left edge, samples, description, accuracy and mean confidence of the bins that are not empty."""
    columns = (calibration.samples, calibration.accuracy, calibration.confidence)
    for number, (samples, accuracy, confidence) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        if samples:
            between = f"confidence {number / BINS:.0%} to {(number + 1) / BINS:.0%}"
            title = f"{between}: {count_noun(samples, 'sample', 'samples')}, mean confidence {confidence:.1%}"
            yield round(LEFT + number * BAR + 1, 1), samples, title, accuracy, confidence


def _chart(label: str, *parts: Html) -> Html:
    bottom = TOP + HEIGHT
    ticks = [
        element("text", f"{share:.0%}", x=LEFT + share * (WIDTH - LEFT - RIGHT), y=bottom + 17, text_anchor=anchor)
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    ]
    return element(
        "svg", *parts, *ticks, viewBox=f"0 0 {WIDTH} {bottom + 22:g}", role="img", aria_label=label, class_="chart"
    )


def _tick_y(y: float, label: str) -> Html:
    text = element("text", label, x=LEFT - 6, y=y + 4, text_anchor="end")
    return element("g", _line(LEFT, y, WIDTH - RIGHT, y, "grid"), text)


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Html:
    return element("rect", x=f"{x:g}", y=f"{y:g}", width=f"{width:.1f}", height=f"{height:.1f}", class_=kind)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return element("line", x1=f"{x1:g}", y1=f"{y1:g}", x2=f"{x2:g}", y2=f"{y2:g}", class_=kind)
