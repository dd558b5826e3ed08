"""The classification task."""

import math
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from typing_extensions import override

from kindling.models.batches import mixes
from kindling.models.metrics import ClassCountMetric, classification_metrics, ranking_metrics
from kindling.models.regression import RegressionTask
from kindling.models.task import BaseTask, Stage
from kindling.models.temperature import fit_temperature
from kindling.models.threshold import ThresholdMetric, choose_threshold, parse_threshold
from kindling.models.validation_outputs import ValidationOutputs
from kindling.utils.decision_threshold import DecisionThreshold
from kindling.utils.text import join_names

LOSSES = ("cross_entropy", "focal")
FOCAL_GAMMA = 2.0  # the best one in T.-Y. Lin et al., ICCV 2017


class ClassificationTask(BaseTask):
    """Base of all classifiers: a subclass passes `**kwargs` to `super().__init__` and sets `self.network`.

    Takes raw inputs and normalizes them itself, so training, export and serving can't drift apart: images as floats
    in [0, 1], shape (N, C, H, W), or features as floats, shape (N, F). Returns logits, shape (N, num_classes), or
    (N, num_classes, L) for one class at each of L positions.

    Args:
        num_classes: Number of classes.
        class_names: Names of the classes in the order of their labels; the labels themselves by default.
        loss_function: The loss: cross_entropy, or focal, which gives samples that are predicted well less weight.
        label_smoothing: Fraction of the target spread over all classes in the loss, in [0, 1). Applies to validation
            too: smoothing makes a network less confident, which the plain loss would show as a decline.
        weighted_loss: Whether to weight classes in the loss inversely to their number of training samples.
        threshold: For two classes, the probability from which the positive class is predicted; or a metric, for which
            it is chosen on the validation split: accuracy, balanced_accuracy, f1 (the mean of both classes),
            positive_f1 or mcc; the validation metrics, measured on the same samples, are then optimistic. By default
            the most probable class is predicted.
        positive_class: Of two classes, the name of the one that `threshold` and the average precision are about; by
            default the one that its name tells, such as yes, ja, true or malignant, else the second one.
        softmax_temperature: What logits are divided by before the softmax, which changes no predicted class but makes
            probabilities match frequencies; by default chosen on the validation split. With 1, probabilities are those
            of the network. The loss is that of the logits in any case.
        **kwargs: See `BaseTask`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    task = "classification"
    data_arguments = (*BaseTask.data_arguments, "num_classes", "class_names")
    regressor: ClassVar[type[RegressionTask] | None] = None  # `kindling fit` builds it if the targets are numbers
    multilabel_classifier: ClassVar[type[BaseTask] | None] = None  # and this one if a sample has several classes
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        class_names: tuple[str, ...] = (),
        loss_function: Literal["cross_entropy", "focal"] = "cross_entropy",
        label_smoothing: float = 0.0,
        weighted_loss: bool = False,
        threshold: float | ThresholdMetric | None = None,
        positive_class: str | None = None,
        softmax_temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if loss_function not in LOSSES:
            raise ValueError(f"loss_function must be {join_names(LOSSES)}, got {loss_function}")
        self.loss_function = loss_function
        self.num_classes = self.num_outputs = num_classes
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(num_classes))
        self.label_smoothing = label_smoothing
        # `setup` computes the weights from the training data.
        self.register_buffer("class_weights", torch.ones(num_classes) if weighted_loss else None)
        self.threshold, self._chooser = parse_threshold(threshold, positive_class, self.class_names)
        if softmax_temperature is not None and not 0 < softmax_temperature < math.inf:
            raise ValueError(f"softmax_temperature must be greater than 0, got {softmax_temperature}")
        self.fits_temperature = softmax_temperature is None
        self._chosen_temperature = softmax_temperature  # None until it is known
        self.default_temperature = 1.0  # until then
        self._validation = ValidationOutputs(num_classes)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.class_weights is not None:
            data: Any = getattr(self.trainer, "datamodule", None)
            if not hasattr(data, "class_counts"):
                name = type(data).__name__
                raise ValueError(
                    f"weighted_loss needs class counts, which {name} lacks: set `class_counts` in the data module"
                )
            counts = torch.tensor(data.class_counts)
            self.class_weights.copy_(
                counts.sum() / (len(counts) * counts.clamp(min=1))
            )  # mean weight over the samples: 1
        self._use_threshold(self.threshold)

    @override
    def check_targets(self, outputs: Tensor, targets: Any) -> None:
        name = type(self).__name__
        if self.training and mixes(self._trainer):
            return
        if isinstance(targets, Tensor) and targets.ndim == outputs.ndim > 1:
            raise ValueError(
                f"{name} predicts one class per sample, but targets have shape {tuple(targets.shape)}: return labels "
                "(N,), or derive from MultiLabelTask for several classes per sample"
            )
        if isinstance(targets, Tensor) and targets.is_floating_point():
            raise ValueError(f"{name} predicts classes, but the targets are numbers: use a regression model")

    @override
    def metrics(self) -> MetricCollection:
        """Return the metrics of a stage, each updated with logits (N, num_classes) and labels (N,)."""
        return classification_metrics(self.num_classes)

    @override
    def metrics_of(self, stage: Stage) -> MetricCollection:
        metrics = super().metrics_of(stage)
        is_default = self.num_classes == 2 and not is_overridden("metrics", self, ClassificationTask)
        if is_default and stage == "test":
            metrics.add_metrics(ranking_metrics(self._chooser.positive))
        return metrics

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, num_classes) and labels (N,), or shares of each class (N, num_classes)."""
        number = len(targets) if targets.is_floating_point() else targets.numel()
        options: dict[str, Any] = {"weight": self.class_weights, "label_smoothing": self.label_smoothing}
        # Divided by the number of samples, not their total weight, so that batch means average to the epoch mean.
        if self.loss_function == "cross_entropy":
            return F.cross_entropy(outputs, targets, reduction="sum", **options) / number
        probability = outputs.softmax(dim=1)
        if targets.is_floating_point():
            probability = (probability * targets).sum(1)
        else:
            probability = probability.gather(1, targets.unsqueeze(1)).squeeze(1)  # of the label
        losses = F.cross_entropy(outputs, targets, reduction="none", **options)
        return ((1 - probability) ** FOCAL_GAMMA * losses).mean()

    @override
    def measured_targets(self, targets: Tensor) -> Tensor:
        """Return the class with the largest share in each sample, (N,), of targets that are mixed."""
        return targets.argmax(1) if targets.is_floating_point() else targets

    @property
    def softmax_temperature(self) -> float:
        """What logits are divided by before the softmax."""
        return self.default_temperature if self._chosen_temperature is None else self._chosen_temperature

    @override
    def calibrate(self, outputs: Tensor) -> Tensor:
        """Return logits (N, num_classes) divided by the temperature."""
        return outputs if self.softmax_temperature == 1 else outputs / self.softmax_temperature

    @override
    def to_prediction(self, outputs: Tensor) -> Tensor:
        """Return class probabilities (N, num_classes) for logits."""
        return self.calibrate(outputs).softmax(dim=1)

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        # Log-probabilities for reports: small probabilities would underflow.
        logits: Tensor = super().validation_step(batch, batch_idx)
        if self._chooses_temperature or self._chooses_threshold:
            limit = math.inf if self._has_threshold else self._validation.limit / self.trainer.world_size
            self._validation.add(logits, batch[1], limit)
        return (logits if self._chooses_temperature else self.calibrate(logits)).log_softmax(dim=1)

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.calibrate(super().test_step(batch, batch_idx)).log_softmax(dim=1)

    @property
    def threshold_metric(self) -> ThresholdMetric | None:
        """Metric for which the threshold is chosen on the validation split; None if it is not chosen."""
        return self._chooser.metric

    @property
    def positive_class(self) -> str:
        """Name of the class of two that the threshold is about."""
        return self.class_names[self._chooser.positive]

    @property
    def _has_threshold(self) -> bool:
        return self.threshold is not None or self.threshold_metric is not None

    @property
    def _chooses_threshold(self) -> bool:
        return self.threshold_metric is not None and self._chooses(self.threshold)

    @property
    def _chooses_temperature(self) -> bool:
        return self.fits_temperature and self._chooses(self._chosen_temperature)

    def _chooses(self, known: object) -> bool:
        """Return whether this validation chooses a value; what a checkpoint stores is kept."""
        return not self.trainer.sanity_checking and (self.trainer.state.fn == TrainerFn.FITTING or known is None)

    @property
    def _measures_again(self) -> bool:
        """Whether metrics depend on what a validation chooses at its end."""
        has_own = is_overridden("metrics", self, ClassificationTask)
        return self._has_threshold or (has_own and not is_overridden("shared_step", self, BaseTask))

    @override
    def on_validation_epoch_start(self) -> None:
        self._validation.clear()  # of a validation that was interrupted

    @override
    def on_validation_epoch_end(self) -> None:
        chooses_threshold = self._chooses_threshold
        if chooses_threshold or self._chooses_temperature:
            logits, labels = self._validation.gather(self.trainer.world_size, self.device)
            if self._chooses_temperature:
                self._chosen_temperature = fit_temperature(logits, labels)
            if chooses_threshold:
                self._use_threshold(self._chooser.choose(self.calibrate(logits).softmax(dim=1), labels))
            if self._measures_again and self._validation.batches:
                _, metrics = self._stage_metrics("val")
                metrics.reset()  # measured with what the last validation has chosen
                for batch in self._validation.batches:
                    metrics.update(self.calibrate(batch[0]), batch[1])
            self._validation.clear()
        super().on_validation_epoch_end()

    def reported_loss(self, log_probabilities: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, that of the logits, given calibrated log-probabilities (N, num_classes)."""
        return self.loss(log_probabilities * self.softmax_temperature, targets)

    def calibrated(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """Return the log-probabilities of a validation (N, classes) with the temperature that it chooses."""
        if not self.fits_temperature:
            return log_probabilities
        return (log_probabilities / fit_temperature(log_probabilities, labels)).log_softmax(dim=1)

    def threshold_for(self, log_probabilities: Tensor, labels: Tensor) -> DecisionThreshold | None:
        """Return the fixed threshold, or the best one for calibrated outputs (N, 2) and labels (N,)."""
        if not (metric := self.threshold_metric):
            return self.threshold
        return choose_threshold(log_probabilities.exp(), labels, self._chooser.positive, metric)

    def _use_threshold(self, threshold: DecisionThreshold | None) -> None:
        self.threshold = threshold
        for module in self.modules():
            if isinstance(module, ClassCountMetric):
                module.threshold = threshold

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.fits_temperature:
            checkpoint["softmax_temperature"] = self.softmax_temperature
        if self.threshold_metric:
            checkpoint["decision_threshold"] = self.threshold.as_dict() if self.threshold else None

    @override
    def restore_learned(self, checkpoint: dict[str, Any]) -> None:
        super().restore_learned(checkpoint)
        if self.fits_temperature:
            # Checkpoints of earlier versions have none.
            self._chosen_temperature = checkpoint.get("softmax_temperature", 1.0)
        if not self.threshold_metric:
            return
        if self._chooser.has_chosen(checkpoint):
            stored = checkpoint["decision_threshold"]
            self._use_threshold(DecisionThreshold.from_dict(stored) if stored else None)
        elif self._trainer is None or self._trainer.state.fn not in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            raise ValueError(
                f"the checkpoint has no threshold that was chosen for {self.threshold_metric}: train with it, or "
                "let kindling validate choose one, and give it as a number"
            )
