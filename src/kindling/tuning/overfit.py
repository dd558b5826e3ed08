"""Checks that a network can overfit a single batch."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader

from kindling.models.batches import batch_size
from kindling.models.classification import ClassificationTask
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import RegressionTask
from kindling.models.task import BaseTask
from kindling.training.terminate_on_nan import TerminateOnNaN
from kindling.tuning.short_fit import clone_model, short_fit
from kindling.utils.text import count_noun

MAX_LOSS_RATIO = 0.05  # of final to first loss, for tasks without accuracy
STEPS_PER_EPOCH = 20  # consecutive steps in which all predictions must be correct


@dataclass(frozen=True)
class OverfitResult:
    """Result of overfitting one batch.

    Attributes:
        accuracy: Accuracy on the batch over the last steps; None if the model is not a classifier.
        loss: Mean loss over the last steps.
        first_loss: Loss before the first step.
        samples: Number of samples in the batch.
        steps: Number of optimizer steps.
    """

    accuracy: float | None
    loss: float
    first_loss: float
    samples: int
    steps: int

    @property
    def succeeded(self) -> bool:
        """Whether all predictions are correct; without accuracy, whether the loss fell to 5% of its first value."""
        return self.accuracy == 1 if self.accuracy is not None else self.loss <= MAX_LOSS_RATIO * self.first_loss

    def __str__(self) -> str:
        samples, steps = count_noun(self.samples, "sample", "samples"), count_noun(self.steps, "step", "steps")
        result = f"loss {self.first_loss:.2g} -> {self.loss:.2g} after {steps}"
        if self.accuracy is not None:
            result = f"accuracy {self.accuracy:.1%}, {result}"
        if self.succeeded:
            return f"the network can overfit one batch of {samples}: {result}"
        return (
            f"the network can't overfit one batch of {samples}: {result}; check the learning rate (--find_lr), the "
            "layers (--watch) and the labels"
        )


def overfit_batch(model: BaseTask, data: LightningDataModule, *, steps: int = 1000, **options: Any) -> OverfitResult:
    """Train a copy of a model on its first training batch until it predicts the batch perfectly.

    Augmentation, dropout, label smoothing, schedule and warm-up are disabled, so a sound classifier reaches an accuracy
    of 100%, and other models 5% of their first loss. The model and the random state are left unchanged; no files are
    written.

    Args:
        model: The model, with its optimizer.
        data: The data module.
        steps: Maximum number of steps.
        **options: Arguments of the Trainer, such as `accelerator`.

    Raises:
        ValueError: If the model has nothing to train.
    """
    clone = clone_model(model)
    is_classifier = isinstance(clone, ClassificationTask)
    if isinstance(clone, ClassificationTask):
        clone.label_smoothing, clone.class_weights = 0.0, None
    if isinstance(clone, MultiLabelTask):
        clone.positive_weights = None
    if getattr(model, "will_unfreeze", False):
        clone.unfreeze_epoch = 0  # type: ignore[assignment]
    for module in clone.modules():
        if "Dropout" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    data.prepare_data()
    data.setup("fit")
    if isinstance(clone, RegressionTask) and (targets := getattr(data, "training_targets", None)) is not None:
        clone.standardize(targets)  # `setup` does not see the data module
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)  # not augmented
    with torch.no_grad():
        first_loss = float(clone.shared_step(batch, "val")[0])
    metric, mode, threshold = "train/loss", "min", MAX_LOSS_RATIO * first_loss
    if is_classifier:
        metric, mode, threshold = "train/accuracy", "max", 1 - 1e-6
    stopping = EarlyStopping(
        metric, mode=mode, stopping_threshold=threshold, patience=steps, check_on_train_epoch_end=True
    )
    batches: DataLoader[Any] = DataLoader([batch] * STEPS_PER_EPOCH, batch_size=None)  # type: ignore[arg-type]
    trainer = short_fit(clone, batches, steps, [stopping, TerminateOnNaN()], "overfitting one batch", **options)
    metrics = trainer.callback_metrics
    accuracy = metrics["train/accuracy"].item() if is_classifier else None
    return OverfitResult(accuracy, metrics["train/loss"].item(), first_loss, batch_size(batch[1]), trainer.global_step)
