"""The report of a classifier, section by section."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.evaluation.predictions import NO_PREDICTION, Predictions
from kindling.evaluation.report.calibration import calibration_section
from kindling.evaluation.report.confusion_matrix import confusion_section, share_cell
from kindling.evaluation.report.html import Html, element, join, name_cell, section, table
from kindling.evaluation.report.metric_cards import metric_cards
from kindling.evaluation.report.samples import SHOWN, show_samples
from kindling.evaluation.report.threshold import threshold_section
from kindling.evaluation.statistics import RESAMPLES, class_scores, confidence_intervals
from kindling.models.many_classes import MANY_CLASSES
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
) -> Iterator[Html]:
    """Yield the sections of the report.

    Args:
        metrics: The test metrics by name.
        predictions: The predictions for the N test samples.
        losses: Mean loss of each of `random_blocks`, shape (B,).
        data: The data module.
        names: Names of the classes.
        columns: Sections about the columns of a table.
        temperatures: The softmax temperature of each sample, (N, 1).
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
    yield section("Worst predictions", worst_predictions(predictions, data, names))
    yield section("Calibration", calibration_section(predictions, temperatures))


def class_table(predictions: Predictions, names: Sequence[str]) -> Html:
    """Return a table with samples, precision, recall and F1 of each class."""
    scores = torch.stack(class_scores(*predictions.class_counts), dim=1)  # (classes, 3)
    return score_table(names, predictions.class_counts[1], scores, ("precision", "recall", "F1"))


def score_table(names: Sequence[str], samples: Tensor, scores: Tensor, titles: Sequence[str]) -> Html:
    """Return a table of the scores of each class; of more than `MANY_CLASSES`, those with the lowest last score.

    Args:
        names: Names of the classes.
        samples: Number of test samples with each class, (classes,).
        scores: Scores of each class, (classes, k).
        titles: Names of the scores.
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


def worst_predictions(predictions: Predictions, data: BaseDataModule, class_names: Sequence[str]) -> Html:
    """Return the test samples whose labels had the lowest probabilities."""
    mistakes = int((~predictions.correct).sum())
    if not mistakes:
        return element("p", "All predictions are correct.")
    worst = predictions.worst(SHOWN)
    names = [*class_names, NO_PREDICTION]
    labels, classes = (
        [names[label] for label in part[worst].tolist()] for part in (predictions.labels, predictions.classes)
    )
    confidence = [f"{value:.1%}" for value in predictions.confidence[worst].tolist()]
    total = count_noun(mistakes, "wrong prediction", "wrong predictions")
    shown = total if len(worst) == mistakes else f"{len(worst)} of {total}"
    cells = {"label": labels, "prediction": classes, "probability": confidence}
    return show_samples(worst, cells, f"{shown}, lowest probability of the label first.", "its probability", data)
