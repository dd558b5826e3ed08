"""The report of a multi-label classifier, section by section."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from kindling.data import BaseDataModule
from kindling.evaluation.multilabel import RESAMPLES, MultiLabelPredictions, multilabel_intervals, names_of_classes
from kindling.evaluation.report.classification import score_table
from kindling.evaluation.report.html import Html, element, join, section
from kindling.evaluation.report.metric_cards import metric_cards
from kindling.evaluation.report.samples import SHOWN, show_samples
from kindling.utils.decision import THRESHOLD
from kindling.utils.text import count_noun, format_metric, join_names

NOTE = f"Ranges are 95% bootstrap confidence intervals ({RESAMPLES:,} resamples, 1,000 for the loss)."
NO_CLASS = "none"


def multilabel_sections(
    metrics: Mapping[str, float],
    predictions: MultiLabelPredictions,
    losses: Tensor,
    data: BaseDataModule,
    names: Sequence[str],
) -> Iterator[Html]:
    """Yield the sections of the report.

    Args:
        metrics: The test metrics by name.
        predictions: The predictions for the N test samples.
        losses: Mean loss of each of `random_blocks`, shape (B,).
        data: The data module.
        names: Names of the classes.
    """
    yield metric_cards(metrics, multilabel_intervals(predictions, losses), lambda _, value: format_metric(value), NOTE)
    if missing := int(predictions.probabilities.isnan().any(1).sum()):
        yield element("p", f"{count_noun(missing, 'prediction is', 'predictions are')} NaN and counted as no class.")
    yield section("Metrics per class", class_table(predictions, names))
    yield section("Worst predictions", worst_predictions(predictions, data, names))


def class_table(predictions: MultiLabelPredictions, names: Sequence[str]) -> Html:
    """Return a table with samples, precision, recall, F1 and average precision of each class."""
    wrong = predictions.mistakes.any(1).double().mean().item()
    intro = f"A class is predicted from a probability of {THRESHOLD:.0%} on. All classes of a sample are predicted "
    intro += f"correctly for {1 - wrong:.1%} of the samples."
    titles = ("precision", "recall", "F1", "average precision")
    scores = score_table(names, predictions.targets.bool().sum(0), predictions.scores, titles)
    return join([element("p", intro, class_="soft"), scores])


def worst_predictions(predictions: MultiLabelPredictions, data: BaseDataModule, names: Sequence[str]) -> Html:
    """Return the test samples with the most certain mistakes."""
    worst = predictions.worst(SHOWN)
    if not len(worst):
        return element("p", "All predictions are correct.")
    labels, predicted = (
        [text or NO_CLASS for text in names_of_classes(part[worst], names)]
        for part in (predictions.targets.bool(), predictions.predicted)
    )
    mistakes = [
        join_names([f"{names[label]} {row[label]:.0%}" for label in wrong.nonzero().flatten().tolist()])
        for row, wrong in zip(predictions.probabilities[worst], predictions.mistakes[worst], strict=True)
    ]
    intro = f"The {len(worst)} most certain mistakes."
    columns = {"label": labels, "prediction": predicted, "mistakes": mistakes}
    return show_samples(worst, columns, intro, "probability of each class that is wrong", data)
