"""The test metrics with their confidence intervals, at the top of the report."""

from collections.abc import Callable, Mapping

from kindling.evaluation.report.html import Html, element, join
from kindling.evaluation.statistics import Interval

TITLES = {
    "f1": "macro F1",
    "map": "mean average precision",
    "roc_auc": "ROC AUC",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
}


def metric_cards(
    metrics: Mapping[str, float],
    intervals: Mapping[str, Interval],
    format_value: Callable[[str, float], str],
    note: str,
) -> Html:
    """Return the test metrics (`test/loss`) with their 95% confidence intervals (`loss`), and a note about these.

    `format_value` formats a value, given the name of its metric.
    """
    cards = []
    for name, value in metrics.items():
        name = name.removeprefix("test/")
        low, high = intervals.get(name, (value, value))
        text, *ends = (format_value(name, each) for each in (value, low, high))
        # If all resamples are equal, as without any mistake, they say nothing about the uncertainty.
        interval = " to ".join(ends) if high > low else "no interval"
        title = TITLES.get(name, name.replace("_", " "))
        cards.append(element("div", title, element("b", text), element("span", interval), class_="card"))
    return join([element("div", *cards, class_="cards"), element("p", note, class_="soft")])
