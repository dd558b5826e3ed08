"""The softmax temperature, by which a classifier divides its logits so that probabilities match frequencies."""

import math

from torch import Tensor
from torch.nn.functional import nll_loss

LOWEST, HIGHEST = 0.05, 20.0
STEPS = 24  # halvings of the range of the logarithm: the temperature is exact to 4e-7


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the lowest log loss: C. Guo et al., ICML 2017.

    One made-up sample with equal shares of all classes keeps it away from 0 if all predictions are right, as in J.
    Platt, "Probabilistic Outputs for Support Vector Machines" (1999). The temperature is 1 unless another one improves
    the log-likelihood of the samples by more than 1, what a parameter gains by chance (H. Akaike, 1974): so it never
    makes the log loss worse, and few samples are left alone.

    Args:
        logits: Logits or log-probabilities, shape (N, classes); rows that are not finite are ignored.
        labels: The true classes, shape (N,).
    """
    known = logits.isfinite().all(dim=1)
    logits, labels = logits[known].cpu().double(), labels[known].cpu()
    if not len(logits):
        return 1.0
    smoothing = 1 / (len(logits) + 1)
    of_labels = logits.gather(1, labels.unsqueeze(1)).mean()
    expected = (1 - smoothing) * of_labels + smoothing * logits.mean()
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(STEPS):  # the loss is convex in the inverse of the temperature
        middle = (low + high) / 2
        mean = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1).mean()
        low, high = (middle, high) if mean > expected else (low, middle)
    temperature = math.exp((low + high) / 2)
    before, after = (nll_loss((logits / each).log_softmax(dim=1), labels, reduction="sum") for each in (1, temperature))
    return temperature if before - after > 1 else 1.0
