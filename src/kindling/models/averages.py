"""Averages of the outputs of several networks, shape (networks, N, ...)."""

import math

from torch import Tensor
from torch.nn import functional as F


def mean_output(outputs: Tensor) -> Tensor:
    """Return the mean (N, ...)."""
    return outputs.mean(dim=0)


def mean_probability(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean probability (N, classes, ...) of logits (networks, N, classes, ...)."""
    return _log_mean_exp(logits.log_softmax(dim=2))


def mean_sigmoid(logits: Tensor) -> Tensor:
    """Return the logit of the mean probability of each class, (N, classes), of logits (networks, N, classes)."""
    return _log_mean_exp(F.logsigmoid(logits)) - _log_mean_exp(F.logsigmoid(-logits))  # keeps small probabilities


def _log_mean_exp(logarithms: Tensor) -> Tensor:
    return logarithms.logsumexp(dim=0) - math.log(len(logarithms))
