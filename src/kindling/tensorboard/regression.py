"""Predictions of a regression model in TensorBoard."""

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kindling.evaluation.regression import RegressionPredictions
from kindling.evaluation.regression_charts import error_chart, error_histogram, prediction_chart
from kindling.tensorboard.images import add_plot
from kindling.tensorboard.predictions import Texts
from kindling.utils.text import format_numbers

CHARTS = {
    "pictures/predictions and targets": prediction_chart,
    "pictures/errors by prediction": error_chart,
    "pictures/error histogram": error_histogram,
}


class RegressionTabs:
    """Predictions of a regression model: charts of predictions and errors, worst predictions.

    Args:
        predictions: The predictions.
    """

    header: tuple[str, ...] = ("target", "prediction", "error")
    point_header: tuple[str, ...] = ("target", "prediction", "error", "absolute error")

    def __init__(self, predictions: RegressionPredictions) -> None:
        self.predictions = predictions

    def __len__(self) -> int:
        return len(self.predictions.targets)

    def write(self, writer: SummaryWriter, step: int) -> None:
        """Write the predictions against the targets, the errors against the predictions, and their histogram."""
        finite = self.predictions.finite
        if not len(finite.targets):
            return
        for tag, chart in CHARTS.items():
            add_plot(writer, tag, chart(finite), step)

    def worst(self, number: int) -> Tensor:
        """Return the indices of the predictions with the largest absolute errors, largest first."""
        return self.predictions.worst(number)

    def cells(self, rows: Tensor) -> Texts:
        """Return target, prediction and error."""
        return list(zip(*(format_numbers(part[rows].tolist()) for part in self._parts), strict=True))

    def captions(self, rows: Tensor) -> Texts:
        """Return the target, and the prediction."""
        return [(target, f"as {prediction}") for target, prediction, _ in self.cells(rows)]

    def points(self, rows: Tensor) -> Texts:
        """Return target, prediction, error and absolute error as plain numbers, by which points can be colored."""
        parts = (*self._parts, self.predictions.errors.abs())
        return list(zip(*([f"{value:.6g}" for value in part[rows].tolist()] for part in parts), strict=True))

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.predictions.targets, self.predictions.values, self.predictions.errors
