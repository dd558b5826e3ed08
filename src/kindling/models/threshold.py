"""Chooses the decision threshold of a classifier with two classes."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_roc

from kindling.utils.decision_threshold import CURVE_STEPS, DecisionThreshold
from kindling.utils.text import join_names, suggest

ThresholdMetric = Literal["accuracy", "balanced_accuracy", "f1", "positive_f1", "mcc"]

# Names of classes, in lower case.
NEGATIONS = ("no", "not", "non", "kein", "keine", "nicht", "pas", "sin", "senza", "without")
NEGATIVE = frozenset(
    (
        *("no", "n", "false", "f", "0", "nein", "non", "nee", "nej", "nei", "não", "nao", "нет", "否", "いいえ"),
        *("negative", "neg", "negativ", "negativo", "absent", "absence", "off", "inactive", "alive"),
        *("healthy", "well", "normal", "benign", "control", "ok", "ham", "genuine", "legitimate", "legit"),
    )
)
POSITIVE = frozenset(
    (
        *("yes", "y", "true", "t", "1", "ja", "j", "oui", "si", "sí", "sì", "sim", "да", "是", "はい"),
        *("positive", "pos", "positiv", "positivo", "present", "presence", "on", "active", "dead", "died"),
        *("sick", "ill", "diseased", "abnormal", "malignant", "case", "defect", "defective", "faulty", "spam"),
        *("fraud", "fraudulent"),
    )
)


def positive_f1(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    """Return the F1 of the positive class, given the numbers of true and false positives and negatives."""
    return 2 * tp / (2 * tp + fp + fn)


def matthews_correlation(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    """Return Matthews' correlation coefficient; 0 if all predictions are equal."""
    scale = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()
    return ((tp * tn - fp * fn) / scale).nan_to_num(nan=0.0)


# Those with the names of logged metrics are these metrics.
METRICS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "accuracy": lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn),
    "balanced_accuracy": lambda tp, fp, fn, tn: (tp / (tp + fn) + tn / (tn + fp)) / 2,
    "f1": lambda tp, fp, fn, tn: (positive_f1(tp, fp, fn, tn) + positive_f1(tn, fn, fp, tp)) / 2,
    "positive_f1": positive_f1,
    "mcc": matthews_correlation,
}


def find_positive(class_names: Sequence[str]) -> int:
    """Return the index of the positive class of two.

    It is the one whose name is an affirmation or a finding while that of the other is the opposite: nein and ja, benign
    and malignant, fraud and no fraud. Otherwise it is the second one, as in scikit-learn and AutoGluon.
    """
    if len(class_names) == 2:
        first, second = (str(name).strip().lower().replace("_", " ").replace("-", " ") for name in class_names)
        if (first in POSITIVE and second in NEGATIVE) or second in (f"{word} {first}" for word in NEGATIONS):
            return 0
    return 1


def choose_threshold(
    probabilities: Tensor, labels: Tensor, positive: int, metric: ThresholdMetric
) -> DecisionThreshold | None:
    """Return the threshold with the best metric, of equally good ones that nearest to 0.5.

    It lies halfway between two neighboring probabilities, so that rounding changes no prediction.

    Args:
        probabilities: Probabilities of both classes, shape (N, 2); rows with NaN are ignored.
        labels: The true classes, shape (N,).
        positive: Index of the positive class.
        metric: The metric, a key of `METRICS`.

    Returns:
        The threshold; None if the labels do not contain both classes.
    """
    known = ~probabilities.isnan().any(dim=1)
    scores, is_positive = probabilities[known, positive].cpu(), (labels[known] == positive).long().cpu()
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return None
    fpr, tpr, uppers = binary_roc(scores, is_positive)  # (K,): 1, and each distinct score, highest first
    tp, fp = (tpr * positives).round().double(), (fpr * negatives).round().double()
    values = METRICS[metric](tp, fp, positives - tp, negatives - fp)
    lowers = torch.cat([uppers[1:], torch.zeros(1)])  # the highest score below each threshold
    middles = (lowers + uppers) / 2
    thresholds = torch.where(middles > lowers, middles, uppers)  # neighbors in float32 have nothing between them
    possible = torch.ones_like(values, dtype=torch.bool)
    possible[0] = lowers[0] < 1  # no threshold is above a probability of 1
    best = values[possible].max()
    equal = (possible & (values >= best - 1e-12)).nonzero().squeeze(1)
    chosen = equal[(thresholds[equal] - 0.5).abs().argmin()]
    scores_found, grid = uppers[1:].flip(0), torch.arange(CURVE_STEPS + 1) / CURVE_STEPS
    curve = values[len(scores_found) - torch.searchsorted(scores_found, grid)]
    return DecisionThreshold(thresholds[chosen].item(), positive, metric, best.item(), tuple(curve.tolist()))


def parse_threshold(
    threshold: float | ThresholdMetric | None, positive_class: str | None, class_names: Sequence[str]
) -> tuple[DecisionThreshold | None, ThresholdMetric | None, int]:
    """Return the threshold if it is given as a number, the metric for which it is chosen, and the positive class.

    Args:
        threshold: A probability, a metric or None.
        positive_class: Name of the positive class; None for that of `find_positive`.
        class_names: Names of the classes.

    Raises:
        ValueError: If the threshold or the positive class does not suit the classes.
    """
    metrics, name = get_args(ThresholdMetric), None if positive_class is None else str(positive_class)
    if isinstance(threshold, str) and threshold not in metrics:
        hint = suggest(threshold, metrics)
        raise ValueError(f"threshold must be from 0 to 1, or {join_names(metrics)}, got {threshold}{hint}")
    given = f"positive_class {name}" if threshold is None else f"threshold {threshold}"
    if len(class_names) != 2 and (threshold, name) != (None, None):
        raise ValueError(f"{given} needs two classes, but there are {len(class_names)}: remove it")
    if name is not None and name not in class_names:
        hint = suggest(name, class_names)
        raise ValueError(f"positive_class must be {' or '.join(class_names)}, got {name}{hint}")
    positive = find_positive(class_names) if name is None else [*class_names].index(name)
    if threshold is None or isinstance(threshold, str):
        return None, threshold, positive
    return DecisionThreshold(float(threshold), positive), None, positive
