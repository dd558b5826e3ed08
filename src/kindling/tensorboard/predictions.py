"""Predictions of a classifier in TensorBoard, and the code shared with those of a regression model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.evaluation.multilabel import MultiLabelPredictions
from kindling.evaluation.predictions import NO_PREDICTION, Predictions, most_confused
from kindling.evaluation.regression import RegressionPredictions
from kindling.models.many_classes import MANY_CLASSES, TopClasses
from kindling.tensorboard.images import add_picture, add_plot, confusion_figure, image_grid
from kindling.utils.pictures import are_images
from kindling.utils.text import shorten

Inputs = Callable[[Tensor], Tensor | None]  # returns the inputs (n, ...) of the samples with these indices
Texts = list[tuple[str, ...]]

WORST = 30  # worst predictions to show
MAX_CURVES = 20  # precision-recall curves: of the classes with the most samples


class PredictionTabs(ABC):
    """Predictions for the samples of a split, as TensorBoard shows them.

    Attributes:
        header: Titles of `cells`.
        point_header: Titles of `points`.
        predictions: The predictions.
    """

    header: tuple[str, ...]
    point_header: tuple[str, ...]
    predictions: Predictions | RegressionPredictions | MultiLabelPredictions

    @abstractmethod
    def write(self, writer: SummaryWriter, step: int) -> None:
        """Write the charts."""

    @abstractmethod
    def cells(self, rows: Tensor) -> Texts:
        """Return the cells of a table of some samples (n,)."""

    @abstractmethod
    def captions(self, rows: Tensor) -> Texts:
        """Return the lines below the images of some samples (n,)."""

    @abstractmethod
    def points(self, rows: Tensor) -> Texts:
        """Return the metadata of some samples (n,) in the projector."""


class ClassificationTabs(PredictionTabs):
    """Predictions of a classifier: confusion matrix, precision-recall curves, worst predictions.

    Args:
        predictions: The predictions.
        class_names: Names of the classes.
    """

    header = ("label", "prediction", "probability")
    point_header = ("label", "prediction", "result")
    predictions: Predictions

    def __init__(self, predictions: Predictions, class_names: Sequence[str]) -> None:
        self.predictions, self.class_names = predictions, class_names

    @override
    def write(self, writer: SummaryWriter, step: int) -> None:
        predictions, names, probabilities = self.predictions, self.class_names, self.predictions.probabilities
        if isinstance(probabilities, TopClasses) or len(names) > MANY_CLASSES:
            write_confusions(writer, predictions, names, step)
            return
        matrix = predictions.confusions.matrix(len(names))
        add_plot(writer, "pictures/confusion matrix", confusion_figure(matrix, names), step)
        largest = predictions.class_counts[1].argsort(descending=True, stable=True)[:MAX_CURVES]
        for label in sorted(largest.tolist()):
            tag = f"precision-recall/{shorten(names[label])}"
            writer.add_pr_curve(tag, predictions.labels == label, probabilities[:, label].nan_to_num(), step)

    @override
    def cells(self, rows: Tensor) -> Texts:
        confidence = [f"{value:.0%}" for value in self.predictions.confidence[rows].tolist()]
        return list(zip(*self._names(rows), confidence, strict=True))

    @override
    def captions(self, rows: Tensor) -> Texts:
        return [(label, f"as {prediction} ({share})") for label, prediction, share in self.cells(rows)]

    @override
    def points(self, rows: Tensor) -> Texts:
        correct = ["correct" if is_correct else "wrong" for is_correct in self.predictions.correct[rows].tolist()]
        return list(zip(*self._names(rows), correct, strict=True))

    def _names(self, rows: Tensor) -> tuple[list[str], list[str]]:
        labels, classes = self.predictions.labels[rows], self.predictions.classes[rows]
        return names_of(labels, self.class_names), names_of(classes, self.class_names)


def names_of(classes: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return the names of classes (n,) in one line each."""
    return [shorten(class_names[label] if label < len(class_names) else NO_PREDICTION) for label in classes.tolist()]


def write_confusions(writer: SummaryWriter, predictions: Predictions, names: Sequence[str], step: int) -> None:
    """Write a table of the most frequent confusions of very many classes."""
    found = most_confused(predictions.confusions, names, WORST)
    rows: Texts = [
        (shorten(label), shorten(guess), f"{count:,}", f"{share:.1%}") for label, guess, count, share in found
    ]
    write_table(writer, "confusions", ("label", "prediction", "samples", "of the label"), rows, step)


def write_worst_predictions(writer: SummaryWriter, predictions: PredictionTabs, inputs: Inputs, step: int) -> None:
    """Write the worst predictions for a split: images with captions, or a table."""
    worst = predictions.predictions.worst(WORST)
    if not len(worst):
        return
    samples = inputs(worst)
    if samples is not None and are_images(samples):
        add_picture(writer, "pictures/worst predictions", image_grid(samples, predictions.captions(worst)), step)
        return
    rows = [(str(row), *cells) for row, cells in zip(worst.tolist(), predictions.cells(worst), strict=True)]
    write_table(writer, "worst predictions", ("row", *predictions.header), rows, step)


def write_table(writer: SummaryWriter, tag: str, header: Sequence[str], rows: Texts, step: int) -> None:
    """Write a table as text in Markdown."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in (header, ("---",) * len(header), *rows))
    writer.add_text(tag, "\n".join(f"| {line} |" for line in lines), step)
