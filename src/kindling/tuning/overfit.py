"""Whether a network can learn at all: one batch, again and again."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader

from kindling.models.classification import ClassificationTask
from kindling.models.task import BaseTask, batch_size
from kindling.training.terminate_on_nan import TerminateOnNaN
from kindling.tuning.short_fit import clone_model, short_fit
from kindling.utils.text import count_noun

FALL = 0.05  # of the first loss, to which that of a batch known by heart must fall
EPOCH = 20  # steps: all answers of so many in a row must be right


@dataclass(frozen=True)
class OverfitResult:
    """What came of it.

    Attributes:
        accuracy: On the batch, over the last steps; None of a model that does not choose classes.
        loss: The mean loss over the last steps.
        first_loss: The loss before the first step.
        samples: Size of the batch.
        steps: Steps that it took.
    """

    accuracy: float | None
    loss: float
    first_loss: float
    samples: int
    steps: int

    @property
    def whole(self) -> bool:
        """Whether every sample was learnt: all classes are right, or the loss is a twentieth of what it was."""
        return self.accuracy == 1 if self.accuracy is not None else self.loss <= FALL * self.first_loss

    def __str__(self) -> str:
        samples, steps = count_noun(self.samples, "sample", "samples"), count_noun(self.steps, "step", "steps")
        batch = f"one batch of {samples} after {steps}"
        found = f"{batch}, loss {self.loss:.2g} where it was {self.first_loss:.2g}"
        if self.accuracy is not None:
            found = f"{self.accuracy:.1%} of {batch}, loss {self.loss:.2g}"
        if self.whole:
            return f"the network can learn: {found}"
        return (
            f"the network can't even learn one batch by heart: {found}; look at the learning rate (--find_lr), at "
            "layers that pass nothing on (--watch), and at the labels"
        )


def overfit_batch(model: BaseTask, data: LightningDataModule, *, steps: int = 1000, **options: Any) -> OverfitResult:
    """Trains a copy of a model on its first training batch until it knows it by heart.

    Augmentation, dropout, label smoothing, schedule and warm-up are left out: what remains must reach 100%, or for a
    task without classes a twentieth of its first loss; else something is broken. The model, its random numbers and the
    disk stay as they are.

    Args:
        model: The model, with the optimizer that it is to be trained with.
        data: What it is to be trained on.
        steps: Steps at most.
        **options: Arguments for the Trainer, `accelerator` for example.

    Raises:
        ValueError: If nothing of the model can be trained.
    """
    without = clone_model(model)
    if isinstance(without, ClassificationTask):
        without.label_smoothing, without.class_weights = 0.0, None
    if getattr(model, "waits", False):  # a backbone that is to be trained later
        without.unfreeze_epoch = 0  # type: ignore[assignment]
    for module in without.modules():
        if "Dropout" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    batch = first_batch(data)
    with torch.no_grad():
        first_loss = float(without.loss(without(batch[0]), batch[1]))
    metric, mode, threshold = "train/loss", "min", FALL * first_loss
    if isinstance(without, ClassificationTask):
        metric, mode, threshold = "train/accuracy", "max", 1 - 1e-6
    learnt = EarlyStopping(
        metric, mode=mode, stopping_threshold=threshold, patience=steps, check_on_train_epoch_end=True
    )
    batches: DataLoader[Any] = DataLoader([batch] * EPOCH, batch_size=None)  # type: ignore[arg-type]
    trainer = short_fit(without, batches, steps, [learnt, TerminateOnNaN()], **options)
    metrics = trainer.callback_metrics
    accuracy = metrics["train/accuracy"].item() if isinstance(without, ClassificationTask) else None
    return OverfitResult(accuracy, metrics["train/loss"].item(), first_loss, batch_size(batch[1]), trainer.global_step)


def first_batch(data: LightningDataModule) -> Any:
    """The first training batch as the model receives it, but not augmented."""
    data.prepare_data()
    data.setup("fit")
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
