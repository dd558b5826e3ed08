"""The report of a multi-label classifier, section by section."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from kindling.data import BaseDataModule
from kindling.evaluation.multilabel import RESAMPLES, MultiLabelPredictions, multilabel_intervals, names_of_classes
from kindling.evaluation.report.classification import score_table
from kindling.evaluation.report.heat_maps import RIGHT, Explain, ExplainedScore, Explanation
from kindling.evaluation.report.html import Html, element, join, section
from kindling.evaluation.report.metric_cards import metric_cards
from kindling.evaluation.report.samples import NO_CLASS, SHOWN, show_samples
from kindling.utils.decision_threshold import THRESHOLD
from kindling.utils.text import count_noun, format_metric, join_names

NOTE = f"Ranges are 95% bootstrap confidence intervals ({RESAMPLES:,} resamples, 1,000 for the loss)."
CLASSES = 3  # with a heat map, of each sample


def multilabel_sections(
    metrics: Mapping[str, float],
    predictions: MultiLabelPredictions,
    losses: Tensor,
    data: BaseDataModule,
    names: Sequence[str],
    explain: Explain | None,
) -> Iterator[Html]:
    """Yield the sections of the report.

    `losses` are the mean losses of `random_blocks`, (B,). `explain` computes the heat maps of images.
    """
    yield metric_cards(metrics, multilabel_intervals(predictions, losses), lambda _, value: format_metric(value), NOTE)
    if missing := int(predictions.probabilities.isnan().any(1).sum()):
        yield element("p", f"{count_noun(missing, 'prediction is', 'predictions are')} NaN and counted as no class.")
    yield section("Metrics per class", class_table(predictions, names))
    yield section("Worst predictions", worst_predictions(predictions, data, names, explain))
    if explain and len(right := predictions.right(RIGHT)):
        intro = "Each class of these samples, and no other one, is predicted."
        yield section("Correct predictions", show_predictions(right, predictions, data, names, intro, explain))


def class_table(predictions: MultiLabelPredictions, names: Sequence[str]) -> Html:
    """Return a table with samples, precision, recall, F1 and average precision of each class."""
    wrong = predictions.mistakes.any(1).double().mean().item()
    intro = f"A class is predicted from a probability of {THRESHOLD:.0%} on. All classes of a sample are predicted "
    intro += f"correctly for {1 - wrong:.1%} of the samples."
    titles = ("precision", "recall", "F1", "average precision")
    scores = score_table(names, predictions.targets.bool().sum(0), predictions.scores, titles)
    return join([element("p", intro, class_="soft"), scores])


def worst_predictions(
    predictions: MultiLabelPredictions, data: BaseDataModule, names: Sequence[str], explain: Explain | None
) -> Html:
    """Return the test samples with the most certain mistakes."""
    worst = predictions.worst(SHOWN)
    if not len(worst):
        return element("p", "All predictions are correct.")
    intro = f"The {len(worst)} most certain mistakes."
    return show_predictions(worst, predictions, data, names, intro, explain)


def show_predictions(
    rows: Tensor,
    predictions: MultiLabelPredictions,
    data: BaseDataModule,
    names: Sequence[str],
    intro: str,
    explain: Explain | None,
) -> Html:
    """Return test samples by index (n,) with their predictions and the classes that are wrong, or else predicted.

    Each of these classes has a heat map of what speaks for it and against it.
    """
    labels, predicted = (
        [text or NO_CLASS for text in names_of_classes(part[rows], names)]
        for part in (predictions.targets.bool(), predictions.predicted)
    )
    mistakes, probabilities = predictions.mistakes[rows], predictions.probabilities[rows]
    explained = torch.where(mistakes.any(1, keepdim=True), mistakes, predictions.predicted[rows])  # (n, classes)
    remarks = [
        join_names([f"{names[label]} {row[label]:.0%}" for label in each.nonzero().flatten().tolist()])
        for row, each in zip(probabilities, explained, strict=True)
    ]
    columns = {"label": labels, "prediction": predicted, "mistakes": remarks}
    remark = "probability of each class that is wrong" if mistakes.any() else "probability of each class"
    explanation = None
    if explain:
        certainty = (probabilities - 0.5).abs().masked_fill(~explained, -1)
        values, classes = certainty.topk(min(CLASSES, len(names)), dim=1)  # (n, k)
        scores = [
            ExplainedScore(
                one_hot(each, len(names)) * (value > 0).unsqueeze(1),
                [f"orange for {names[label]}, blue against it" for label in each.tolist()],
                [names[label] for label in each.tolist()],
            )
            for each, value in zip(classes.T, values.T, strict=True)
        ]
        explanation = Explanation(explain, scores, "against the class", "for the class")
    return show_samples(rows, columns, intro, remark, data, explanation)
