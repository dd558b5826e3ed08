"""The classification task."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from typing_extensions import override

from kindling.models.metrics import classification_metrics
from kindling.models.regression import RegressionTask
from kindling.models.task import BaseTask
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

    @override
    def check_targets(self, outputs: Tensor, targets: Any) -> None:
        name = type(self).__name__
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
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, num_classes) and labels (N,)."""
        options: dict[str, Any] = {"weight": self.class_weights, "label_smoothing": self.label_smoothing}
        # Divided by the number of samples, not their total weight, so that batch means average to the epoch mean.
        if self.loss_function == "cross_entropy":
            return F.cross_entropy(outputs, targets, reduction="sum", **options) / targets.numel()
        probability = outputs.softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)  # of the label
        losses = F.cross_entropy(outputs, targets, reduction="none", **options)
        return ((1 - probability) ** FOCAL_GAMMA * losses).mean()

    @override
    def to_prediction(self, outputs: Tensor) -> Tensor:
        """Return class probabilities (N, num_classes) for logits."""
        return outputs.softmax(dim=1)

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        # Log-probabilities for reports: small probabilities would underflow.
        return super().validation_step(batch, batch_idx).log_softmax(dim=1)  # type: ignore[no-any-return]

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().test_step(batch, batch_idx).log_softmax(dim=1)  # type: ignore[no-any-return]
