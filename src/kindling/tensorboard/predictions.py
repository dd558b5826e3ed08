"""Predictions for a split in TensorBoard: confusion matrix, precision-recall curves, worst predictions."""

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kindling.evaluation.predictions import NO_PREDICTION, Predictions
from kindling.tensorboard.images import add_picture, confusion_figure, image_grid
from kindling.utils.pictures import are_images
from kindling.utils.text import shorten

Inputs = Callable[[Tensor], Tensor | None]  # returns the inputs (n, ...) of the samples with these indices

WORST = 30
CURVES = 20  # precision-recall curves at most: of the classes with the most samples


def names_of(classes: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return the names of classes (n,) in one line each."""
    names = [shorten(name) for name in (*class_names, NO_PREDICTION)]
    return [names[label] for label in classes.tolist()]


def write_predictions(writer: SummaryWriter, predictions: Predictions, class_names: Sequence[str], step: int) -> None:
    """Write the confusion matrix and a precision-recall curve for each class."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font shows boxes for the characters it lacks
        figure = confusion_figure(predictions.confusion_matrix, class_names)
        writer.add_figure("pictures/confusion matrix", figure, step)
    largest = predictions.confusion_matrix.sum(1).argsort(descending=True, stable=True)[:CURVES]
    for label in sorted(largest.tolist()):
        tag, probabilities = f"precision-recall/{shorten(class_names[label])}", predictions.probabilities[:, label]
        writer.add_pr_curve(tag, predictions.labels == label, probabilities.nan_to_num(), step)


def write_worst_predictions(
    writer: SummaryWriter, predictions: Predictions, inputs: Inputs, class_names: Sequence[str], step: int
) -> None:
    """Write the wrong predictions with the lowest probabilities of the label: images with captions, or a table.

    Args:
        writer: Writer of the split.
        predictions: Predictions for the N samples of the split.
        inputs: Returns the inputs of samples by index.
        class_names: Names of the classes.
        step: Number of optimizer steps.
    """
    worst = predictions.worst(WORST)
    if not len(worst):
        return
    labels, classes = (names_of(part[worst], class_names) for part in (predictions.labels, predictions.classes))
    confidence = [f"{value:.0%}" for value in predictions.confidence[worst].tolist()]
    samples = inputs(worst)
    if samples is not None and are_images(samples):
        triples = zip(labels, classes, confidence, strict=True)
        captions = [(label, f"as {prediction} ({share})") for label, prediction, share in triples]
        add_picture(writer, "pictures/worst predictions", image_grid(samples, captions), step)
        return
    rows = zip(map(str, worst.tolist()), labels, classes, confidence, strict=True)
    table = [("row", "label", "prediction", "probability"), ("---",) * 4, *rows]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in table)
    writer.add_text("worst predictions", "\n".join(f"| {line} |" for line in lines), step)
