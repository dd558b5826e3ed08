"""The HTML page of the report, section by section."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from kindling import __version__
from kindling.data import BaseDataModule
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.report.calibration import calibration_charts
from kindling.evaluation.report.confusion_matrix import confusion_section, share_cell
from kindling.evaluation.report.html import Html, element, join, name_cell, table
from kindling.evaluation.report.worst_predictions import worst_predictions
from kindling.evaluation.statistics import RESAMPLES, class_scores, confidence_intervals
from kindling.models import ClassificationTask
from kindling.runs.find import read_text
from kindling.runs.folders import run_folder_of
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun, format_metric

TITLES = {"f1": "macro F1"}


def write_report(
    checkpoint: Path,
    metrics: Mapping[str, float],
    log_probabilities: Tensor,
    labels: Tensor,
    model: ClassificationTask,
    data: BaseDataModule,
    command: str,
) -> Path:
    """Write `report.html` into the run folder of a checkpoint and return its path.

    Args:
        checkpoint: The tested checkpoint.
        metrics: The test metrics by name.
        log_probabilities: Predictions for the test samples, shape (N, classes).
        labels: The true classes, shape (N,).
        model: The tested model.
        data: The data module.
        command: The full command line.
    """
    run = run_folder_of(checkpoint)
    predictions, names = Predictions(log_probabilities.exp(), labels), model.class_names
    samples = zip(torch.split(log_probabilities, 1), torch.split(labels, 1), strict=True)
    losses = torch.stack([model.loss(*sample) for sample in samples])  # smoothed and weighted as the model's own
    title = f"Test of {'/'.join(run.resolve().parts[-2:])}"
    tested = f"{type(model).__name__} on {len(labels):,} test samples of {type(data).__name__}"
    parts = [
        element("h1", title),
        element(
            "p",
            f"{tested} · {checkpoint.name} · {datetime.now():%d %B %Y, %H:%M} · Kindling {__version__}",
            class_="soft",
        ),
        metric_cards(metrics, predictions, losses),
        element(
            "div",
            section("Metrics per class", class_table(predictions.confusion_matrix, names)),
            section("Confusion matrix", confusion_section(predictions.confusion_matrix, names)),
            class_="pair",
        ),
        section("Worst predictions", worst_predictions(predictions, data, names)),
        section("Calibration", calibration_charts(predictions)),
        section("Command", element("pre", command, tabindex=0)),
    ]
    config = run / "config.yaml"
    if config.exists():  # not for a checkpoint outside of a run
        text = element("pre", read_text(config), tabindex=0)
        parts.append(element("details", element("summary", "Training configuration (config.yaml)"), text))
    with atomic_write(run / "report.html") as path:
        path.write_text(page(title, join(parts)), encoding="utf-8")
    return run / "report.html"


def page(title: str, body: Html) -> str:
    """Return the HTML document."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, content: Html) -> Html:
    """Return a section with a heading."""
    return element("section", element("h2", title), content)


def metric_cards(metrics: Mapping[str, float], predictions: Predictions, losses: Tensor) -> Html:
    """Return the test metrics with their 95% confidence intervals."""
    intervals = confidence_intervals(predictions, losses)
    cards = []
    for name, value in metrics.items():
        name = name.removeprefix("test/")
        low, high = intervals.get(name, (value, value))
        formatted = format_metric if name == "loss" or name not in intervals else "{:.2%}".format
        # If all resamples are equal, as without any mistake, they say nothing about the uncertainty.
        interval = f"{formatted(low)} to {formatted(high)}" if high > low else "no interval"
        title = TITLES.get(name, name.replace("_", " "))
        cards.append(element("div", title, element("b", formatted(value)), element("span", interval), class_="card"))
    note = "Ranges are 95% confidence intervals: Wilson's for accuracy, bootstrap "
    note += f"({RESAMPLES:,} resamples) for loss, balanced accuracy and macro F1."
    parts = [element("div", *cards, class_="cards"), element("p", note, class_="soft")]
    if missing := int(predictions.confusion_matrix[:, -1].sum()):
        verb = count_noun(missing, "prediction is", "predictions are")
        parts.append(element("p", f"{verb} NaN and counted as wrong."))
    return join(parts)


def class_table(confusion_matrix: Tensor, names: Sequence[str]) -> Html:
    """Return a table with samples, precision, recall and F1 of each class."""
    labels, predictions = confusion_matrix.sum(1), confusion_matrix.sum(0)[:-1]
    scores = torch.stack(class_scores(confusion_matrix.diag(), labels, predictions), dim=1)  # (classes, 3)
    rows = (
        [name_cell(name), element("td", f"{samples:,}"), *map(share_cell, shares)]
        for name, samples, shares in zip(names, labels.tolist(), scores.tolist(), strict=True)
    )
    return table(["class", "samples", "precision", "recall", "F1"], rows, class_="list")
