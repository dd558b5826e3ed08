"""The figures of a test: confidence intervals, classes, calibration."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kindling.evaluation.predictions import Predictions

BINS = 15
DRAWS = 1000
NORMAL_95 = 1.959964  # 95% of a normal distribution lie within so many standard deviations of its mean

Interval = tuple[float, float]


def intervals(answers: Predictions) -> dict[str, Interval]:
    """95% confidence intervals by the name of the metric."""
    accuracy = wilson(int(answers.right.sum()), len(answers.labels))
    balanced, f1 = bootstrap_scores(answers.confusion)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
        "f1": f1,
        "loss": bootstrap_mean(answers.losses),
    }


def wilson(right: int, samples: int) -> Interval:
    """Wilson's 95% interval of a share: E. B. Wilson, Journal of the American Statistical Association 22 (1927)."""
    share, spread = right / samples, NORMAL_95**2 / samples
    middle = (share + spread / 2) / (1 + spread)
    half = (spread * share * (1 - share) + spread**2 / 4) ** 0.5 / (1 + spread)
    return middle - half, middle + half


def class_scores(right: Tensor, samples: Tensor, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of each class, NaN where there is nothing to divide by.

    Args:
        right: Right answers by class, shape (..., classes).
        samples: Samples by class.
        answers: Answers by class.
    """
    return right / answers, right / samples, 2 * right / (samples + answers)


def bootstrap_scores(confusion: Tensor) -> tuple[Interval, Interval]:
    """95% intervals of balanced accuracy and macro F1 over samples drawn anew: B. Efron, Annals of Statistics 7 (1979).

    A draw of N samples with replacement is a multinomial draw of the cells of `Answers.confusion`.
    """
    labels, answers = confusion.nonzero(as_tuple=True)
    cells, samples = confusion[labels, answers].numpy(), int(confusion.sum())
    random = np.random.default_rng(0)
    drawn = np.vstack(
        [cells, random.multinomial(samples, cells / samples, size=DRAWS)]
    )  # first the samples as they are
    counts = torch.from_numpy(drawn).float().T.contiguous()  # (cells, 1 + draws): rows add up four times faster
    hit = labels == answers
    nothing = torch.zeros(len(confusion), 1 + DRAWS)
    given = answers < len(confusion)
    _, recall, f1 = class_scores(
        nothing.index_add(0, labels[hit], counts[hit]),
        nothing.index_add(0, labels, counts),
        nothing.index_add(0, answers[given], counts[given]),
    )
    balanced, macro = (scores.double().nanmean(dim=0).numpy() for scores in (recall, f1))
    return middle_95(balanced[0], balanced[1:], most=1), middle_95(macro[0], macro[1:], most=1)


def bootstrap_mean(values: Tensor) -> Interval:
    """95% interval of the mean of values that are not negative, shape (N,), over samples drawn anew."""
    random, array = np.random.default_rng(0), values.double().numpy()
    means = [array[random.integers(len(array), size=len(array))].mean() for _ in range(DRAWS)]
    return middle_95(array.mean(), np.array(means), most=np.inf)


def middle_95(figure: float, draws: "np.ndarray[tuple[int], np.dtype[np.float64]]", most: float) -> Interval:
    """The middle 95% of the draws, moved so that their mean is the figure itself, between 0 and `most`.

    Of a small class every draw lacks a third of the samples, and its F1 is lower: over a thousand such classes that
    outweighs chance, and the draws all lie below the figure.
    """
    low, high = np.clip(np.quantile(draws, [0.025, 0.975]) - draws.mean() + figure, 0, most)
    return float(low), float(high)


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy agree, in bins of equal width: C. Guo et al., ICML 2017.

    Args:
        samples: Of each bin, shape (BINS,).
        accuracy: Share of right answers in each bin, NaN where it is empty.
        confidence: Mean confidence in each bin, NaN where it is empty.
        error: Expected calibration error: the mean difference of the two over all samples.
    """

    samples: Tensor
    accuracy: Tensor
    confidence: Tensor
    error: float


def calibration(answers: Predictions) -> Calibration:
    """Sorts answers into bins by their confidence."""
    inner_edges = torch.linspace(0, 1, BINS + 1)[1:-1]
    bins = torch.bucketize(answers.confidence, inner_edges, right=True)  # (N,)
    samples = bins.bincount(minlength=BINS)
    right = bins.bincount(answers.right.double(), minlength=BINS)
    confidence = bins.bincount(answers.confidence.double(), minlength=BINS)
    error = (right - confidence).abs().sum().item() / len(bins)
    return Calibration(samples, right / samples, confidence / samples, error)
