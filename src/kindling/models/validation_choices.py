"""Values that a classifier chooses on the validation split: its softmax temperature and its decision threshold."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from kindling.models.temperature import fit_temperature
from kindling.models.threshold import ThresholdMetric, choose_threshold
from kindling.models.validation_outputs import ValidationOutputs
from kindling.utils.decision_threshold import DecisionThreshold

logger = logging.getLogger(__name__)


class ValidationChoices:
    """The temperature and the threshold of a classifier, given or chosen at the end of each validation.

    Args:
        classes: Number of classes.
        temperature: The temperature; None to choose it.
        threshold: The threshold if it is given.
        metric: Metric for which the threshold is chosen; None to choose none.
        positive: Index of the positive class of two.

    Attributes:
        default_temperature: The temperature until one is chosen.
    """

    default_temperature = 1.0

    def __init__(
        self,
        classes: int,
        temperature: float | None,
        threshold: DecisionThreshold | None,
        metric: ThresholdMetric | None,
        positive: int,
    ) -> None:
        self.threshold, self.metric, self.positive = threshold, metric, positive
        self.fits_temperature = temperature is None
        self._temperature = temperature
        self._outputs = ValidationOutputs(classes)

    @property
    def temperature(self) -> float:
        """The softmax temperature, by which logits are divided."""
        return self.default_temperature if self._temperature is None else self._temperature

    @property
    def has_threshold(self) -> bool:
        """Whether a threshold is given or to be chosen."""
        return self.threshold is not None or self.metric is not None

    def calibrate(self, logits: Tensor) -> Tensor:
        """Return logits (N, classes, ...) divided by the temperature."""
        return logits if self.temperature == 1 else logits / self.temperature

    def chooses_temperature(self, trainer: Trainer) -> bool:
        """Return whether the current validation chooses the temperature."""
        return self.fits_temperature and _may_choose(trainer, self._temperature)

    def chooses_threshold(self, trainer: Trainer) -> bool:
        """Return whether the current validation chooses the threshold."""
        return self.metric is not None and _may_choose(trainer, self.threshold)

    def clear(self) -> None:
        """Forget the outputs of a validation."""
        self._outputs.clear()

    def add(self, logits: Tensor, labels: object, trainer: Trainer) -> None:
        """Collect logits (n, classes, ...) and labels (n, ...) of a batch if the current validation needs them."""
        if self.chooses_temperature(trainer) or self.chooses_threshold(trainer):
            limit = torch.inf if self.has_threshold else self._outputs.limit / trainer.world_size
            self._outputs.add(logits, labels, limit)

    def choose(self, trainer: Trainer, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Choose the values that the current validation may choose.

        Returns:
            The batches of logits and labels of this process, for metrics that depend on the choice; none if nothing was
            chosen, or too many to keep.
        """
        chooses_threshold = self.chooses_threshold(trainer)  # choosing changes whether it chooses
        if not (chooses_threshold or self.chooses_temperature(trainer)):
            return []
        logits, labels = self._outputs.gather(trainer.world_size, device)
        if self.chooses_temperature(trainer):
            self._temperature = fit_temperature(logits, labels)
        if chooses_threshold:
            self.threshold = self._choose_threshold(self.calibrate(logits).softmax(dim=1), labels)
            if self.threshold is None:
                logger.warning(
                    f"no threshold was chosen for {self.metric}, because the validation split does not contain both "
                    "classes: the most probable class is predicted"
                )
        batches = self._outputs.batches or []
        self.clear()
        return batches

    def refit_temperature(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """Return log-probabilities (N, classes) of another epoch's validation with the temperature that suits them."""
        if not self.fits_temperature:
            return log_probabilities
        return (log_probabilities / fit_temperature(log_probabilities, labels)).log_softmax(dim=1)

    def threshold_for(self, log_probabilities: Tensor, labels: Tensor) -> DecisionThreshold | None:
        """Return the given threshold, or the best one for calibrated outputs (N, 2) and labels (N,)."""
        return self._choose_threshold(log_probabilities.exp(), labels) if self.metric else self.threshold

    def _choose_threshold(self, probabilities: Tensor, labels: Tensor) -> DecisionThreshold | None:
        assert self.metric is not None
        return choose_threshold(probabilities, labels, self.positive, self.metric)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return the values for a checkpoint: those that were chosen, not those that were given."""
        stored: dict[str, Any] = {}
        if self.fits_temperature:
            stored["softmax_temperature"] = self.temperature
        if self.metric:
            stored["decision_threshold"] = self.threshold.as_dict() if self.threshold else None
        return stored

    def restore(self, checkpoint: Mapping[str, Any], is_needed: bool) -> None:
        """Restore the values of a checkpoint; raise ValueError if it lacks a threshold that is needed.

        Args:
            checkpoint: The checkpoint; that of an earlier version has no temperature.
            is_needed: Whether a threshold must be known now: no validation will choose one.
        """
        if self.fits_temperature:
            self._temperature = checkpoint.get("softmax_temperature", 1.0)
        if not self.metric:
            return
        stored = checkpoint.get("decision_threshold")
        is_same = stored is None or (stored["metric"], stored["positive"]) == (self.metric, self.positive)
        if "decision_threshold" in checkpoint and is_same:
            self.threshold = DecisionThreshold.from_dict(stored) if stored else None
        elif is_needed:
            raise ValueError(
                f"the checkpoint has no decision threshold chosen for {self.metric}: train with --model.threshold "
                f"{self.metric}, or choose one with kindling validate and pass the printed number as --model.threshold"
            )


def _may_choose(trainer: Trainer, known: object) -> bool:
    """Return whether the current validation may choose a value: outside of training, only if none is known yet."""
    return not trainer.sanity_checking and (trainer.state.fn == TrainerFn.FITTING or known is None)
