"""Predictions of a multi-label classifier in TensorBoard."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.evaluation.multilabel import MultiLabelPredictions, names_of_classes
from kindling.tensorboard.predictions import MAX_CURVES, PredictionTabs, Texts
from kindling.utils.text import shorten


class MultiLabelTabs(PredictionTabs):
    """Predictions of a multi-label classifier: precision-recall curves, worst predictions.

    Args:
        predictions: The predictions.
        class_names: Names of the classes.
    """

    header = ("label", "prediction")
    point_header = ("label", "prediction", "result")
    predictions: MultiLabelPredictions

    def __init__(self, predictions: MultiLabelPredictions, class_names: Sequence[str]) -> None:
        self.predictions = predictions
        self.class_names = [shorten(name) for name in class_names]

    @override
    def write(self, writer: SummaryWriter, step: int) -> None:
        targets, probabilities = self.predictions.targets.bool(), self.predictions.probabilities.nan_to_num()
        largest = targets.sum(0).argsort(descending=True, stable=True)[:MAX_CURVES]
        for label in sorted(largest.tolist()):
            tag = f"precision-recall/{self.class_names[label]}"
            writer.add_pr_curve(tag, targets[:, label], probabilities[:, label], step)

    @override
    def cells(self, rows: Tensor) -> Texts:
        parts = (self.predictions.targets.bool(), self.predictions.predicted)
        return list(zip(*(names_of_classes(part[rows], self.class_names) for part in parts), strict=True))

    @override
    def captions(self, rows: Tensor) -> Texts:
        return [(label or "none", f"as {prediction or 'none'}") for label, prediction in self.cells(rows)]

    @override
    def points(self, rows: Tensor) -> Texts:
        wrong = self.predictions.mistakes[rows].any(1).tolist()
        return [
            (*cells, "wrong" if is_wrong else "correct")
            for cells, is_wrong in zip(self.cells(rows), wrong, strict=True)
        ]
