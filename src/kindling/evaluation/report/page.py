"""The report's page, section by section."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from kindling import __version__
from kindling.data import BaseDataModule
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.report.charts import confidence_histogram, reliability_diagram
from kindling.evaluation.report.classes import class_table, confusions
from kindling.evaluation.report.html import Html, element, join
from kindling.evaluation.report.samples import most_wrong
from kindling.evaluation.report.statistics import BINS, DRAWS, calibration, intervals
from kindling.models import ClassificationTask
from kindling.runs.find import read_text
from kindling.runs.folders import run_folder_of
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun, format_metric

TITLES = {"f1": "macro F1"}


def write_report(
    checkpoint: Path,
    metrics: Mapping[str, float],
    logs: Tensor,
    labels: Tensor,
    model: ClassificationTask,
    data: BaseDataModule,
    command: str,
) -> Path:
    """Writes `report.html` into the run folder of a checkpoint.

    Args:
        checkpoint: What was tested.
        metrics: Figures of the test by name.
        logs: What the model said of each test sample, logarithms of probabilities, shape (N, classes).
        labels: The true classes, shape (N,).
        model: The model that was tested.
        data: The source of the samples.
        command: What was typed.

    Returns:
        The path of the report.
    """
    run = run_folder_of(checkpoint)
    losses = torch.stack([model.loss(*one) for one in zip(torch.split(logs, 1), torch.split(labels, 1), strict=True)])
    answers = Predictions(logs.exp(), labels, losses)
    names = model.class_names
    where = run.resolve()
    title = f"{where.parent.name}/{where.name}"
    what = f"{type(model).__name__} on {len(labels):,} test samples of {type(data).__name__}"
    when = f"{datetime.now():%d %B %Y, %H:%M}"
    parts = [
        element("h1", title),
        element("p", f"{what} · {checkpoint.name} · {when} · Kindling {__version__}", class_="soft"),
        cards(metrics, answers),
        element(
            "div",
            section("Classes", class_table(answers.confusion, names)),
            section("Confusions", confusions(answers.confusion, names)),
            class_="pair",
        ),
        section("Most wrong", most_wrong(answers, data, names)),
        section("Calibration", calibration_charts(answers)),
    ]
    config = run / "config.yaml"
    asked = [element("p", "Tested with:"), element("pre", command, tabindex=0)]
    if config.exists():  # a checkpoint may lie outside of a run
        text = element("pre", read_text(config), tabindex=0)
        asked.append(element("details", element("summary", "config.yaml, of the training"), text))
    parts.append(section("Configuration", *asked))
    with atomic_write(run / "report.html") as path:
        path.write_text(page(title, join(parts)), encoding="utf-8")
    return run / "report.html"


def page(title: str, body: Html) -> str:
    """The whole document."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *content: Html) -> Html:
    """A part of the page under a heading."""
    return element("section", element("h2", title), *content)


def cards(metrics: Mapping[str, float], answers: Predictions) -> Html:
    """The figures of the test, each with its 95% confidence interval where it has one."""
    ranges = intervals(answers)
    boxes = []
    for name, value in metrics.items():
        name = name.removeprefix("test/")
        low, high = ranges.get(name, (value, value))
        written = format_metric if name == "loss" or name not in ranges else "{:.2%}".format
        # Where every draw is the same, as it is without a mistake, the draws say nothing of chance.
        spread = f"{written(low)} to {written(high)}" if high > low else "no interval"
        title = TITLES.get(name, name.replace("_", " "))
        boxes.append(element("div", title, element("b", written(value)), element("span", spread), class_="card"))
    how = "Below each figure is its 95% confidence interval: Wilson's for the accuracy, for the others that of "
    how += f"{DRAWS:,} bootstrap draws of the samples."
    parts = [element("div", *boxes, class_="cards"), element("p", how, class_="soft")]
    if silent := int(answers.confusion[:, -1].sum()):
        wrong = count_noun(silent, "prediction is", "predictions are")
        parts.append(element("p", f"{wrong} NaN and counted as wrong."))
    return join(parts)


def calibration_charts(answers: Predictions) -> Html:
    """The reliability diagram and the histogram of confidences."""
    bins = calibration(answers)
    mean, accuracy = answers.confidence.mean().item(), answers.right.float().mean().item()
    intro = (
        f"Expected calibration error {bins.error:.2%} over {BINS} bins: how far confidence and accuracy differ. "
        f"The mean confidence is {mean:.1%}, the accuracy {accuracy:.1%}."
    )
    diagram = "Share of right answers by confidence. Orange: surer than right; light blue: less sure than right. "
    diagram += "A line is the 95% confidence interval of a bin."
    return join(
        [
            element("p", intro),
            element(
                "div",
                element("figure", reliability_diagram(bins), element("figcaption", diagram)),
                element(
                    "figure",
                    confidence_histogram(bins),
                    element("figcaption", "Number of samples by confidence, on a logarithmic scale."),
                ),
                class_="charts",
            ),
        ]
    )
