"""Predictions of a regression model in TensorBoard."""

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.evaluation.regression import RegressionPredictions
from kindling.evaluation.regression_charts import error_chart, error_histogram, prediction_chart
from kindling.tensorboard.images import add_plot
from kindling.tensorboard.predictions import PredictionTabs, Texts
from kindling.utils.text import format_numbers

CHARTS = {
    "pictures/predictions and targets": prediction_chart,
    "pictures/errors by prediction": error_chart,
    "pictures/error histogram": error_histogram,
}


class RegressionTabs(PredictionTabs):
    """Predictions of a regression model: charts of predictions and errors, worst predictions.

    Args:
        predictions: The predictions.
    """

    header = ("target", "prediction", "error")
    point_header = ("target", "prediction", "error", "absolute error")
    predictions: RegressionPredictions

    def __init__(self, predictions: RegressionPredictions) -> None:
        self.predictions = predictions

    @override
    def write(self, writer: SummaryWriter, step: int) -> None:
        finite = self.predictions.finite
        if not len(finite.targets):
            return
        for tag, chart in CHARTS.items():
            add_plot(writer, tag, chart(finite), step)

    @override
    def cells(self, rows: Tensor) -> Texts:
        return list(zip(*(format_numbers(part[rows].tolist()) for part in self._parts), strict=True))

    @override
    def captions(self, rows: Tensor) -> Texts:
        return [(target, f"as {prediction}") for target, prediction, _ in self.cells(rows)]

    @override
    def points(self, rows: Tensor) -> Texts:
        # As plain numbers, by which points can be colored.
        parts = (*self._parts, self.predictions.errors.abs())
        return list(zip(*([f"{value:.6g}" for value in part[rows].tolist()] for part in parts), strict=True))

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.predictions.targets, self.predictions.values, self.predictions.errors
