"""The multi-label task: any number of classes per sample."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from typing_extensions import override

from kindling.models.classification import FOCAL_GAMMA
from kindling.models.metrics import MeanAveragePrecision, MultilabelMacroF1
from kindling.models.task import BaseTask
from kindling.utils.decision_threshold import THRESHOLD
from kindling.utils.text import join_names

LOSSES = ("bce", "focal")


class MultiLabelTask(BaseTask):
    """Base of all multi-label classifiers: a subclass passes `**kwargs` to `super().__init__` and sets `self.network`.

    Each sample has any number of classes, also none. The network returns a logit per class, shape (N, num_classes); the
    sigmoid of a logit is the probability that the sample has the class, independent of the other classes. Targets are
    1 for the classes of a sample and 0 for the others, shape (N, num_classes).

    Args:
        num_classes: Number of classes.
        class_names: Names of the classes in the order of the outputs; their numbers by default.
        loss_function: The loss: bce (binary cross-entropy), or focal, which gives less weight to classes of a sample
            that are predicted well.
        weighted_loss: Whether to weight the samples that have a class by the number of training samples without the
            class relative to those with it.
        **kwargs: See `BaseTask`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    task = "multilabel"
    data_arguments = (*BaseTask.data_arguments, "num_classes", "class_names")
    positive_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        class_names: tuple[str, ...] = (),
        loss_function: Literal["bce", "focal"] = "bce",
        weighted_loss: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if loss_function not in LOSSES:
            raise ValueError(f"loss_function must be one of {join_names(LOSSES)}, got {loss_function}")
        self.loss_function = loss_function
        self.num_classes = self.num_outputs = num_classes
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(num_classes))
        # `setup` computes the weights from the training data.
        self.register_buffer("positive_weights", torch.ones(num_classes) if weighted_loss else None)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit" or self.positive_weights is None:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        if (targets := getattr(data, "training_targets", None)) is None:
            name = type(data).__name__
            raise ValueError(
                f"weighted_loss needs the training targets, which {name} lacks: add `labels` to its dataset"
            )
        positives = targets.double().sum(0)
        self.positive_weights.copy_((len(targets) - positives) / positives.clamp(min=1))

    @override
    def check_targets(self, outputs: Tensor, targets: Any) -> None:
        if isinstance(targets, Tensor) and targets.shape != outputs.shape:
            raise ValueError(
                f"{type(self).__name__} needs a 0 or 1 for each class of a sample, shape {tuple(outputs.shape)}, but "
                f"the targets have shape {tuple(targets.shape)}"
            )

    @override
    def metrics(self) -> MetricCollection:
        """Return the metrics of a stage, each updated with logits and targets, both (N, num_classes)."""
        return MetricCollection(
            {"map": MeanAveragePrecision(self.num_classes), "f1": MultilabelMacroF1(self.num_classes, THRESHOLD)}
        )

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over all samples and classes of logits and targets, both (N, num_classes)."""
        targets = targets.to(outputs.dtype)
        losses = F.binary_cross_entropy_with_logits(
            outputs, targets, reduction="none", pos_weight=self.positive_weights
        )
        if self.loss_function == "focal":
            losses = (outputs.sigmoid() - targets).abs() ** FOCAL_GAMMA * losses
        return losses.mean()

    @override
    def metric_targets(self, targets: Tensor) -> Tensor:
        """Return binary targets (N, num_classes) for metrics: mixed targets (MixUp, CutMix) are rounded, 0.5 to 1."""
        return (targets >= 0.5).long() if targets.is_floating_point() else targets

    @override
    def to_prediction(self, outputs: Tensor) -> Tensor:
        """Return the probability of each class (N, num_classes) for logits."""
        return outputs.sigmoid()
