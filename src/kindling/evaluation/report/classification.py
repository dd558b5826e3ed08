"""The report of a classifier, section by section."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import one_hot

from kindling.data import BaseDataModule
from kindling.evaluation.charts import BLUE, GRAY, ORANGE, new_chart
from kindling.evaluation.predictions import NO_PREDICTION, Predictions
from kindling.evaluation.report.calibration import calibration_section
from kindling.evaluation.report.confusion_matrix import confusion_section, share_cell
from kindling.evaluation.report.heat_maps import RIGHT, Explain, ExplainedScore, Explanation
from kindling.evaluation.report.html import Html, element, figure_element, join, name_cell, section, table
from kindling.evaluation.report.metric_cards import metric_cards
from kindling.evaluation.report.samples import SHOWN, show_samples
from kindling.evaluation.statistics import RESAMPLES, class_scores, confidence_intervals
from kindling.models.many_classes import MANY_CLASSES
from kindling.utils.decision_threshold import DecisionThreshold
from kindling.utils.text import count_noun, format_metric

LISTED = 50  # of more than `MANY_CLASSES`

NOTE = (
    "Ranges are 95% confidence intervals: Wilson's for accuracy, bootstrap "
    f"({RESAMPLES:,} resamples) for loss, balanced accuracy and macro F1."
)


def classification_sections(
    metrics: Mapping[str, float],
    predictions: Predictions,
    losses: Tensor,
    data: BaseDataModule,
    names: Sequence[str],
    columns: Iterable[Html],
    temperatures: Tensor,
    fits_temperature: bool,
    explain: Explain | None,
) -> Iterator[Html]:
    """Yield the sections of the report, among them those about the columns of a table.

    `losses` are the mean losses of `random_blocks`, (B,). `temperatures` are the softmax temperatures of the samples,
    (N, 1), which the validation split chose if `fits_temperature`. `explain` computes the heat maps of images.
    """
    intervals = confidence_intervals(predictions, losses)

    def format_value(name: str, value: float) -> str:
        return format_metric(value) if name == "loss" or name not in intervals else f"{value:.2%}"

    yield metric_cards(metrics, intervals, format_value, NOTE)
    if missing := int((predictions.classes == len(names)).sum()):
        verb = count_noun(missing, "prediction is", "predictions are")
        yield element("p", f"{verb} NaN and counted as wrong.")
    yield element(
        "div",
        section("Metrics per class", class_table(predictions, names)),
        section("Confusion matrix", confusion_section(predictions.confusions, names)),
        class_="pair",
    )
    if predictions.threshold:
        yield section("Decision threshold", threshold_section(predictions.threshold, names))
    yield from columns
    yield section("Worst predictions", worst_predictions(predictions, data, names, explain))
    if explain and predictions.correct.any():
        intro = "From the least to the most confident one."
        right = show_predictions(predictions.right(RIGHT), predictions, data, names, intro, explain)
        yield section("Correct predictions", right)
    yield section("Calibration", calibration_section(predictions, temperatures, fits_temperature, losses.mean().item()))


def class_table(predictions: Predictions, names: Sequence[str]) -> Html:
    """Return a table with samples, precision, recall and F1 of each class."""
    scores = torch.stack(class_scores(*predictions.class_counts), dim=1)  # (classes, 3)
    return score_table(names, predictions.class_counts[1], scores, ("precision", "recall", "F1"))


def score_table(names: Sequence[str], samples: Tensor, scores: Tensor, titles: Sequence[str]) -> Html:
    """Return a table of the scores of each class; of more than `MANY_CLASSES`, those with the lowest last score.

    `samples` are the numbers of test samples with each class, (classes,). `scores` are (classes, k), with k titles.
    """
    listed, note = torch.arange(len(names)), Html()
    if len(names) > MANY_CLASSES:
        order = samples.argsort(descending=True, stable=True)
        order = order[scores[order, -1].argsort(stable=True)]
        known = order[samples[order] > 0]
        listed = known[:LISTED]
        text = f"The {len(listed)} classes with the lowest {titles[-1]} of {len(known):,} with test samples "
        note = element("p", text + f"({len(names):,} classes in all).", class_="soft")
    rows = (
        [name_cell(names[label]), element("td", f"{number:,}"), *map(share_cell, shares)]
        for label, number, shares in zip(
            listed.tolist(), samples[listed].tolist(), scores[listed].tolist(), strict=True
        )
    )
    return join([note, table(["class", "samples", *titles], rows, class_="list")])


def threshold_section(threshold: DecisionThreshold, names: Sequence[str]) -> Html:
    """Return the threshold and, if it was chosen on the validation split, a chart of the choice."""
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
    axes.axvline(0.5, color=GRAY, lw=1, ls="--")
    axes.plot([threshold.value], [threshold.score], "o", color=ORANGE)
    axes.set_xlim(0, 1)
    return figure


def worst_predictions(
    predictions: Predictions, data: BaseDataModule, class_names: Sequence[str], explain: Explain | None
) -> Html:
    """Return the test samples whose labels had the lowest probabilities."""
    mistakes = int((~predictions.correct).sum())
    if not mistakes:
        return element("p", "All predictions are correct.")
    worst = predictions.worst(SHOWN)
    total = count_noun(mistakes, "wrong prediction", "wrong predictions")
    shown = total if len(worst) == mistakes else f"{len(worst)} of {total}"
    intro = f"{shown}, lowest probability of the label first."
    return show_predictions(worst, predictions, data, class_names, intro, explain)


def show_predictions(
    rows: Tensor,
    predictions: Predictions,
    data: BaseDataModule,
    class_names: Sequence[str],
    intro: str,
    explain: Explain | None,
) -> Html:
    """Return test samples by index (n,) with their predictions.

    Heat maps show what speaks for the prediction rather than for the label; if it is correct, rather than for the
    second most probable class.
    """
    names = [*class_names, NO_PREDICTION]
    labels, classes = (
        [names[label] for label in part[rows].tolist()] for part in (predictions.labels, predictions.classes)
    )
    confidence = [f"{value:.1%}" for value in predictions.confidence[rows].tolist()]
    cells = {"label": labels, "prediction": classes, "probability": confidence}
    explanation = None
    if explain:
        is_right = predictions.correct[rows]
        others = torch.where(is_right, predictions.second[rows], predictions.labels[rows])
        favored, against = (
            one_hot(each, len(names))[:, :-1] for each in (predictions.classes[rows], others)
        )  # (n, classes)
        titles = [f"orange for {name}, blue for {names[other]}" for name, other in zip(classes, others, strict=True)]
        blue = "for the second most probable class" if is_right.all() else "for the label"
        explanation = Explanation(explain, [ExplainedScore(favored - against, titles)], blue, "for the prediction")
    return show_samples(rows, cells, intro, "its probability", data, explanation)
