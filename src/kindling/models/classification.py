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
from kindling.models.metrics_module import Stage
from kindling.models.regression import RegressionTask
from kindling.models.task import BaseTask
from kindling.models.threshold import ThresholdMetric, parse_threshold
from kindling.models.validation_choices import ValidationChoices
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
    regressor: ClassVar[type[RegressionTask] | None] = None  # `kindling fit` builds it for regression targets
    multilabel_classifier: ClassVar[type[BaseTask] | None] = None  # and this one if the targets are multi-label
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
            raise ValueError(f"loss_function must be one of {join_names(LOSSES)}, got {loss_function}")
        self.loss_function = loss_function
        self.num_classes = self.num_outputs = num_classes
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(num_classes))
        self.label_smoothing = label_smoothing
        # `setup` computes the weights from the training data.
        self.register_buffer("class_weights", torch.ones(num_classes) if weighted_loss else None)
        parsed = parse_threshold(threshold, positive_class, self.class_names)
        if softmax_temperature is not None and not 0 < softmax_temperature < math.inf:
            raise ValueError(f"softmax_temperature must be greater than 0, got {softmax_temperature}")
        self.validation_choices = ValidationChoices(num_classes, softmax_temperature, *parsed)

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
            # Over the samples, the mean weight is 1.
            self.class_weights.copy_(counts.sum() / (len(counts) * counts.clamp(min=1)))
        self._use_threshold()

    @override
    def check_targets(self, outputs: Tensor, targets: Any) -> None:
        name = type(self).__name__
        if self.training and mixes(self._trainer):
            return
        if isinstance(targets, Tensor) and targets.ndim == outputs.ndim > 1:
            raise ValueError(
                f"{name} predicts one class per sample, but targets have shape {tuple(targets.shape)}: return labels "
                "(N,), or derive from MultiLabelTask for multi-label targets"
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
            metrics.add_metrics(ranking_metrics(self.validation_choices.positive))
        return metrics

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, num_classes) and labels (N,), or shares of each class (N, num_classes)."""
        number = len(targets) if targets.is_floating_point() else targets.numel()
        weights = self.class_weights  # in the precision of the model's parameters
        weights = weights if weights is None else weights.to(outputs.dtype)
        options: dict[str, Any] = {"weight": weights, "label_smoothing": self.label_smoothing}
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
    def metric_targets(self, targets: Tensor) -> Tensor:
        """Return labels (N,) for metrics: of targets mixed by MixUp or CutMix, the class with the largest share."""
        return targets.argmax(1) if targets.is_floating_point() else targets

    @property
    def softmax_temperature(self) -> float:
        """The softmax temperature, by which logits are divided."""
        return self.validation_choices.temperature

    @property
    def threshold(self) -> DecisionThreshold | None:
        """The decision threshold; None if there is none, or none is chosen yet."""
        return self.validation_choices.threshold

    @property
    def threshold_metric(self) -> ThresholdMetric | None:
        """Metric for which the threshold is chosen on the validation split; None if it is not chosen."""
        return self.validation_choices.metric

    @property
    def positive_class(self) -> str:
        """Name of the class of two that the threshold is about."""
        return self.class_names[self.validation_choices.positive]

    @override
    def calibrate(self, outputs: Tensor) -> Tensor:
        """Return logits (N, num_classes) divided by the temperature."""
        return self.validation_choices.calibrate(outputs)

    @override
    def to_prediction(self, outputs: Tensor) -> Tensor:
        """Return class probabilities (N, num_classes) for logits."""
        return self.calibrate(outputs).softmax(dim=1)

    @override
    def loss_of_test_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, that of the logits, given calibrated log-probabilities (N, num_classes)."""
        return self.loss(outputs * self.softmax_temperature, targets)

    @override
    def on_validation_epoch_start(self) -> None:
        self.validation_choices.clear()  # of a validation that was interrupted

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        # Log-probabilities for reports: small probabilities would underflow.
        logits: Tensor = super().validation_step(batch, batch_idx)
        self.validation_choices.add(logits, batch[1], self.trainer)
        is_undecided = self.validation_choices.chooses_temperature(self.trainer)
        return (logits if is_undecided else self.calibrate(logits)).log_softmax(dim=1)

    @override
    def on_validation_epoch_end(self) -> None:
        batches = self.validation_choices.choose(self.trainer, self.device)
        self._use_threshold()
        if batches and self._metrics_depend_on_choices:
            _, metrics = self.stage_metrics("val")
            metrics.reset()
            for logits, labels in batches:
                metrics.update(self.calibrate(logits), labels)
        super().on_validation_epoch_end()

    @property
    def _metrics_depend_on_choices(self) -> bool:
        has_own = is_overridden("metrics", self, ClassificationTask)
        return self.validation_choices.has_threshold or (has_own and not is_overridden("shared_step", self, BaseTask))

    def _use_threshold(self) -> None:
        for module in self.modules():
            if isinstance(module, ClassCountMetric):
                module.threshold = self.threshold

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.calibrate(super().test_step(batch, batch_idx)).log_softmax(dim=1)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint.update(self.validation_choices.to_checkpoint())

    @override
    def restore_learned(self, checkpoint: dict[str, Any]) -> None:
        super().restore_learned(checkpoint)
        is_validated = self._trainer is not None and self._trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING)
        self.validation_choices.restore(checkpoint, is_needed=not is_validated)
        self._use_threshold()
