"""The task of choosing one class for each sample."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from typing_extensions import override

from kindling.models.metrics import classification_metrics
from kindling.models.task import BaseTask


class ClassificationTask(BaseTask):
    """Base of all classifiers: a subclass passes `**kwargs` up and sets `self.network`, which gives logits.

    Takes raw inputs and normalises them itself, so training, export and serving can't drift apart: images as floats
    in [0, 1], shape (N, C, H, W), or features as floats, shape (N, F). Gives logits, shape (N, num_classes), or
    (N, num_classes, L) for one class at each of L positions.

    Args:
        num_classes: Number of classes.
        class_names: Names of the classes in the order of their labels; the labels themselves by default.
        label_smoothing: Share of the target spread over all classes in the loss, in [0, 1). In validation too: a
            network trained with it is less sure of itself, and by the plain loss would seem to get worse.
        weighted_loss: Whether rare classes count for more in the loss, in inverse proportion to their training samples.
        **kwargs: See `BaseTask`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    data_arguments = (*BaseTask.data_arguments, "num_classes", "class_names")
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        class_names: tuple[str, ...] = (),
        label_smoothing: float = 0.0,
        weighted_loss: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
        self.num_classes = num_classes
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(num_classes))
        self.label_smoothing = label_smoothing
        # Where the loss is weighted, `setup` asks the data module for the weights.
        self.register_buffer("class_weights", torch.ones(num_classes) if weighted_loss else None)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.class_weights is not None:
            data: Any = getattr(self.trainer, "datamodule", None)
            if not hasattr(data, "class_counts"):
                name = type(data).__name__
                raise ValueError(f"weighted_loss needs class_counts, which {name} does not have: set it there")
            counts = torch.tensor(data.class_counts)
            self.class_weights.copy_(counts.sum() / (len(counts) * counts.clamp(min=1)))  # 1 in the mean

    @override
    def metrics(self) -> MetricCollection:
        """Return the metrics of a stage, each updated with logits (N, num_classes) and labels (N,)."""
        return classification_metrics(self.num_classes)

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (N, num_classes) and labels (N,)."""
        smoothing = self.label_smoothing
        total = F.cross_entropy(outputs, targets, self.class_weights, label_smoothing=smoothing, reduction="sum")
        # Over the number of samples, not the sum of their weights: so the mean of batches is the mean of all.
        return total / targets.numel()

    @override
    def to_prediction(self, outputs: Tensor) -> Tensor:
        """Return the probabilities of the classes, (N, num_classes), for logits."""
        return outputs.softmax(dim=1)

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._log_probabilities(super().validation_step(batch, batch_idx))

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._log_probabilities(super().test_step(batch, batch_idx))

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=1)  # for reports: a small probability loses its digits in a float
