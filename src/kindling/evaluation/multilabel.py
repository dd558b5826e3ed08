"""Predictions of a multi-label classifier and their statistics, for the report and TensorBoard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from kindling.evaluation.statistics import BLOCKS, Interval, bootstrap_mean, class_scores, middle_95
from kindling.models.many_classes import MANY_CLASSES
from kindling.utils.decision_threshold import THRESHOLD
from kindling.utils.tensors import evenly_spaced

MAX_CELLS = MANY_CLASSES * BLOCKS  # probabilities that are resampled at most: 200 MB
RESAMPLES = 200  # each ranks all samples of each class: 2.4 s for 10,000 samples and 20 classes


@dataclass(frozen=True)
class MultiLabelPredictions:
    """Predictions of a multi-label classifier for N labeled samples.

    Args:
        probabilities: Shape (N, classes); NaN from a model that diverged, which predicts no class.
        targets: 1 for the classes of a sample, 0 for the others, shape (N, classes).
    """

    probabilities: Tensor
    targets: Tensor

    @cached_property
    def predicted(self) -> Tensor:
        """Which classes are predicted for each sample, bool (N, classes)."""
        return self.probabilities >= THRESHOLD

    @cached_property
    def mistakes(self) -> Tensor:
        """Which classes are predicted wrongly for each sample, bool (N, classes)."""
        return self.predicted != self.targets.bool()

    @cached_property
    def scores(self) -> Tensor:
        """Precision, recall, F1 and average precision of each class, (classes, 4); NaN where undefined."""
        counts = (self.predicted & self.targets.bool()).sum(0), self.targets.bool().sum(0), self.predicted.sum(0)
        average = [average_precision(*pair) for pair in zip(self.probabilities.T, self.targets.T, strict=True)]
        return torch.stack([*class_scores(*counts), torch.tensor(average)], dim=1)

    def worst(self, number: int) -> Tensor:
        """Return the indices of the samples with the most certain mistake, in order of its probability."""
        surprise = torch.where(self.mistakes, (self.probabilities - self.targets).abs().nan_to_num(1.0), 0.0).amax(1)
        order = surprise.argsort(descending=True, stable=True)[:number]
        return order[surprise[order] > 0]

    def right(self, number: int) -> Tensor:
        """Return the indices of a few samples that have classes, all predicted correctly, the least certain first."""
        certainty = (self.probabilities - THRESHOLD).abs().amin(1)
        right = (~self.mistakes.any(1) & self.predicted.any(1)).nonzero().squeeze(1)
        right = right[certainty[right].argsort(stable=True)]
        return right[evenly_spaced(len(right), number)]


def average_precision(probabilities: Tensor, targets: Tensor) -> float:
    """Return the average precision of one class (N,); NaN without samples of the class, or with NaN."""
    if not targets.any() or probabilities.isnan().any():
        return float("nan")
    return float(binary_average_precision(probabilities, targets.int(), validate_args=False))


def names_of_classes(chosen: Tensor, names: Sequence[str], separator: str = ", ") -> list[str]:
    """Return the names of the chosen classes of each sample, bool (n, classes), in one text."""
    return [separator.join(names[label] for label in row.nonzero().flatten().tolist()) for row in chosen]


def multilabel_intervals(predictions: MultiLabelPredictions, losses: Tensor) -> dict[str, Interval]:
    """Return 95% bootstrap intervals by the name of the metric; `losses` are those of `random_blocks`, shape (B,).

    Of many samples, 10,000 are resampled, of very many classes fewer; the interval for all of them is narrower by the
    square root of their number.
    """
    random, (total, classes) = np.random.default_rng(0), predictions.targets.shape
    rows = np.sort(random.permutation(total)[: BLOCKS if classes <= MANY_CLASSES else max(1, MAX_CELLS // classes)])
    number, score = len(rows), _scores(predictions, rows)
    draws = (np.bincount(random.integers(number, size=number), minlength=number) for _ in range(RESAMPLES))
    resampled = np.array([score(times) for times in draws]) * (number / total) ** 0.5
    if classes > MANY_CLASSES:
        of_class = predictions.scores.double()
        metrics = of_class[:, 2].nan_to_num().mean().item(), of_class[:, 3].nanmean().item()
    else:
        metrics = _scores(predictions, np.arange(total))(np.ones(total))
    f1, mean_average_precision = (
        _interval(metric, values[~np.isnan(values)]) for metric, values in zip(metrics, resampled.T, strict=True)
    )
    return {"f1": f1, "map": mean_average_precision, "loss": bootstrap_mean(losses)}


def _interval(metric: float, resampled: NDArray[np.float64]) -> Interval:
    return middle_95(metric, resampled, 0, 1) if len(resampled) else (np.nan, np.nan)


def _scores(
    predictions: MultiLabelPredictions, rows: NDArray[np.integer[Any]]
) -> Callable[[NDArray[np.number[Any]]], tuple[float, float]]:
    """Return a function that computes macro F1 and mean average precision if each row counts several times, (N,)."""
    parts = (predictions.targets.bool(), predictions.predicted, predictions.probabilities)
    has, predicted, probabilities = (part.numpy()[rows].astype(np.float64) for part in parts)
    number = len(rows)
    order = np.argsort(-probabilities, axis=0, kind="stable")  # (N, classes)
    ranked, sorted_probabilities = (np.take_along_axis(part, order, 0) for part in (has, probabilities))
    ends = np.full(order.shape, number - 1)  # the last rank of the samples with the same probability
    if number > 1:
        is_end = sorted_probabilities[:-1] != sorted_probabilities[1:]
        ends[:-1] = np.where(is_end, np.arange(number - 1)[:, None], number - 1)
        ends = np.minimum.accumulate(ends[::-1], axis=0)[::-1]

    def score(times: NDArray[np.number[Any]]) -> tuple[float, float]:
        correct, sums = times @ (has * predicted), times @ (has + predicted)
        f1 = np.divide(2 * correct, sums, out=np.zeros(len(sums)), where=sums > 0).mean()
        return float(f1), _mean_average_precision(ranked, times[order].astype(np.float64), ends)

    return score


def _mean_average_precision(
    has: NDArray[np.float64], times: NDArray[np.float64], ends: NDArray[np.integer[Any]]
) -> float:
    """Return the mean average precision of classes whose samples are ranked by probability and counted `times`.

    Args:
        has: Whether a sample has the class, by falling probability, (N, classes).
        times: How often each of these samples counts, (N, classes).
        ends: Rank of the last sample with the same probability, (N, classes).

    Returns:
        The mean over the classes that a sample has; NaN if there is none.
    """
    positives, ranks = np.cumsum(times * has, axis=0), np.cumsum(times, axis=0)
    precision = np.divide(positives, ranks, out=np.zeros_like(ranks), where=ranks > 0)
    sums, exist = (np.take_along_axis(precision, ends, 0) * times * has).sum(0), positives[-1] > 0
    return float((sums[exist] / positives[-1][exist]).mean()) if exist.any() else float("nan")
