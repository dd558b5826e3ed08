"""Permutation importance: how much worse a model predicts without the information in a column.

L. Breiman, Random Forests, Machine Learning 45 (2001), for any model.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import nll_loss
from torch.utils.flop_counter import FlopCounterMode

from kindling.evaluation.features import Feature
from kindling.models import ClassificationTask, RegressionTask
from kindling.utils.decision_threshold import DecisionThreshold, predicted_classes

REPEATS = 5
MAX_ROWS = 10_000  # more do not change the order of the columns
MIN_ROWS = 100
MAX_FLOPS = 6e10  # of all repeats together, about 2 seconds on a slow core
OVERHEAD_FLOPS = 10_000  # of a row, in which no matrix is multiplied
BATCH_SIZE = 4096
LOWEST = -36.0  # log-probability, of the precision of float64: a single probability of 0 is no infinite loss

Compute = Callable[[Tensor], Tensor]  # takes inputs (n, F), returns log-probabilities (n, classes) or values (n,)
Scores = dict[str, float]  # by name; lower is better


class Importance(NamedTuple):
    """How much worse the predictions are after the values of a column have been shuffled among the samples.

    Attributes:
        feature: The column.
        means: Mean increase of each score, by name.
        spreads: Its standard deviation over the repeats.
    """

    feature: Feature
    means: Scores
    spreads: Scores

    @property
    def matters(self) -> bool:
        """Whether the increase of the first score is larger than twice its standard deviation."""
        score = next(iter(self.means))
        return self.means[score] > 2 * self.spreads[score]


def predictor_of(model: ClassificationTask | RegressionTask) -> Compute:
    """Return a function that computes the predictions of a model on its device and in its precision, in batches."""
    model.eval()

    @torch.inference_mode()
    def compute(inputs: Tensor) -> Tensor:
        parts = []
        for batch in torch.split(inputs, BATCH_SIZE):
            outputs = model(batch.to(model.mean))
            is_classifier = isinstance(model, ClassificationTask)
            found = model.calibrate(outputs).log_softmax(dim=1) if is_classifier else model.to_prediction(outputs)
            parts.append(found.cpu())
        return torch.cat(parts)

    return compute


def score(outputs: Tensor, targets: Tensor, threshold: DecisionThreshold | None = None) -> Scores:
    """Return the log loss and the error rate of log-probabilities (N, classes), or the RMSE of values (N,)."""
    if outputs.ndim == 1:
        return {"rmse": (outputs.double() - targets.double()).square().mean().sqrt().item()}
    errors = predicted_classes(outputs.exp(), threshold) != targets
    return {
        "loss": nll_loss(outputs.double().clamp(min=LOWEST), targets).item(),
        "error": errors.double().mean().item(),
    }


def affordable_rows(compute: Compute, features: Sequence[Feature]) -> int:
    """Return the number of rows to measure the importance on: it takes about two seconds, whatever the model."""
    inputs = inputs_of_features(features)[:64]
    with FlopCounterMode(display=False) as counter:
        compute(inputs)
    of_row = OVERHEAD_FLOPS + counter.get_total_flops() / len(inputs)
    return int(min(MAX_ROWS, max(MIN_ROWS, MAX_FLOPS / (of_row * len(features) * REPEATS))))


def inputs_of_features(features: Sequence[Feature]) -> Tensor:
    """Return the inputs of the model, shape (N, F), given all its features."""
    values, places = torch.cat([each.values for each in features], dim=1), torch.cat([each.places for each in features])
    return values[:, places.argsort()]


def permutation_importance(
    compute: Compute, features: Sequence[Feature], targets: Tensor, threshold: DecisionThreshold | None = None
) -> list[Importance]:
    """Return the importance of each feature, largest first.

    All inputs that encode a column are shuffled together; those without a name are left as they are. `targets` are the
    true classes or values, (N,).
    """
    random = torch.Generator().manual_seed(0)
    inputs = inputs_of_features(features)
    before, found = score(compute(inputs), targets, threshold), []
    for feature in filter(lambda feature: feature.name, features):
        increases = []
        for _ in range(REPEATS):
            inputs[:, feature.places] = feature.values[torch.randperm(len(inputs), generator=random)]
            after = score(compute(inputs), targets, threshold)
            increases.append([after[name] - before[name] for name in before])
        inputs[:, feature.places] = feature.values
        spreads, means = torch.std_mean(torch.tensor(increases, dtype=torch.float64), dim=0)
        found.append(Importance(feature, *(dict(zip(before, part.tolist(), strict=True)) for part in (means, spreads))))
    first = next(iter(before))
    return sorted(found, key=lambda one: -one.means[first])
