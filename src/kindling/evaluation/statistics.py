"""Statistics of a test: confidence intervals, precision and recall per class, calibration."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kindling.evaluation.predictions import ConfusionCounts, Predictions

BINS = 15
RESAMPLES = 1000
BLOCKS = 10_000  # samples, or blocks of samples, to resample at most
MAX_DRAWN = 5_000_000  # numbers that are drawn at once; 100 MB
NORMAL_95 = 1.959964  # 95% of a normal distribution lie within this many standard deviations of the mean

Interval = tuple[float, float]
Number = TypeVar("Number", float, Tensor)


def confidence_intervals(predictions: Predictions, losses: Tensor) -> dict[str, Interval]:
    """Return 95% confidence intervals by the name of the metric; `losses` are those of `random_blocks`, shape (B,)."""
    balanced_accuracy, f1 = bootstrap_scores(predictions.confusions, predictions.num_classes)
    return {
        "accuracy": wilson(int(predictions.correct.sum()), len(predictions.labels)),
        "balanced_accuracy": balanced_accuracy,
        "f1": f1,
        "loss": bootstrap_mean(losses),
    }


def wilson(correct: Number, samples: Number) -> tuple[Number, Number]:
    """Return Wilson's 95% interval of a proportion: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927)."""
    share, spread = correct / samples, NORMAL_95**2 / samples
    middle = (share + spread / 2) / (1 + spread)
    half = (spread * share * (1 - share) + spread**2 / 4) ** 0.5 / (1 + spread)
    return middle - half, middle + half


def class_scores(correct: Tensor, labels: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and F1 of each class, NaN where undefined.

    The arguments are the numbers of correct predictions, of labels and of predictions of each class.
    """
    return correct / predictions, correct / labels, 2 * correct / (labels + predictions)


def bootstrap_scores(confusions: ConfusionCounts, num_classes: int) -> tuple[Interval, Interval]:
    """Return 95% bootstrap intervals of balanced accuracy and macro F1: B. Efron, Annals of Statistics 7 (1979).

    To resample N samples with replacement is to draw the cells of the confusion matrix from a multinomial distribution.
    """
    cells = confusions.counts.numpy()
    step = max(1, MAX_DRAWN // len(cells))
    random, parts = np.random.default_rng(0), [_mean_scores(confusions, num_classes, cells[None])]
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = random.multinomial(cells.sum(), cells / cells.sum(), size=size)
        parts.append(_mean_scores(confusions, num_classes, drawn))
    balanced_accuracy, macro_f1 = torch.cat(parts, dim=1).numpy()
    return middle_95(balanced_accuracy[0], balanced_accuracy[1:], 0, 1), middle_95(macro_f1[0], macro_f1[1:], 0, 1)


def _mean_scores(confusions: ConfusionCounts, num_classes: int, cells: NDArray[np.integer[Any]]) -> Tensor:
    """Return balanced accuracy and macro F1, float64 (2, n), if the pairs occur as often as in `cells` (n, P)."""
    labels, predictions, _ = confusions
    # Contiguous rows are added four times faster.
    counts = torch.from_numpy(cells).float().T.contiguous()  # (P, n)
    correct, exist = labels == predictions, predictions < num_classes
    occurring = torch.unique(torch.cat([labels, predictions[exist]]))  # others have no scores

    def add(classes: Tensor, counts: Tensor) -> Tensor:
        rows = torch.searchsorted(occurring, classes)
        return torch.zeros(len(occurring), counts.shape[1]).index_add(0, rows, counts)

    _, recall, f1 = class_scores(
        add(labels[correct], counts[correct]), add(labels, counts), add(predictions[exist], counts[exist])
    )
    return torch.stack([scores.double().nanmean(dim=0) for scores in (recall, f1)])


def random_blocks(samples: int) -> list[Tensor]:
    """Return the indices of the samples of each block to resample: one sample each, or 10,000 blocks of equal size.

    Means of resampled blocks vary as much as means of resampled samples: a block of n has 1/n of the variance.
    """
    if samples <= BLOCKS:
        return list(torch.arange(samples).unsqueeze(1))
    return list(torch.randperm(samples, generator=torch.Generator().manual_seed(0)).tensor_split(BLOCKS))


def bootstrap_mean(values: Tensor) -> Interval:
    """Return the 95% bootstrap interval of the mean of non-negative values, shape (N,)."""
    values = values.double()
    return middle_95(values.mean().item(), bootstrap_means(values.unsqueeze(1)).squeeze(1).numpy(), 0, np.inf)


def bootstrap_means(samples: Tensor) -> Tensor:
    """Return the means (RESAMPLES, k) of N samples (N, k) drawn with replacement."""
    random, array = np.random.default_rng(0), samples.double().numpy()
    means = [array[random.integers(len(array), size=len(array))].mean(axis=0) for _ in range(RESAMPLES)]
    return torch.from_numpy(np.stack(means))


def middle_95(metric: float, resampled: NDArray[np.float64], minimum: float, maximum: float) -> Interval:
    """Return the middle 95% of the resampled metrics, shifted to the mean `metric`, within the limits of the metric.

    The shift matters with many small classes: a resample lacks a third of the samples of a class, which lowers its F1.
    With a thousand classes, all resamples lie below the metric.
    """
    with np.errstate(invalid="ignore"):  # R² of equal targets is minus infinity
        low, high = np.clip(np.quantile(resampled, [0.025, 0.975]) - resampled.mean() + metric, minimum, maximum)
    return float(low), float(high)


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy in bins of equal width: C. Guo et al., ICML 2017.

    Attributes:
        samples: Number of samples in each bin, shape (BINS,).
        accuracy: Accuracy in each bin, NaN if it is empty.
        confidence: Mean confidence in each bin, NaN if it is empty.
        error: Expected calibration error: the mean difference of accuracy and confidence over all samples.
    """

    samples: Tensor
    accuracy: Tensor
    confidence: Tensor
    error: float


def calibration(predictions: Predictions) -> Calibration:
    """Sort predictions into bins by confidence."""
    inner_edges = torch.linspace(0, 1, BINS + 1)[1:-1]
    bins = torch.bucketize(predictions.confidence, inner_edges, right=True)  # (N,)
    samples = bins.bincount(minlength=BINS)
    correct = bins.bincount(predictions.correct.double(), minlength=BINS)
    confidence = bins.bincount(predictions.confidence.double(), minlength=BINS)
    error = (correct - confidence).abs().sum().item() / len(bins)
    return Calibration(samples, correct / samples, confidence / samples, error)
