"""Whether a network can learn at all: one batch, again and again."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader

from kindling.callbacks.finite import FiniteLoss
from kindling.models.classifier import Batch, Classifier
from kindling.trials.trial import trial, twin

EPOCH = 20  # steps: all answers of so many in a row must be right


@dataclass(frozen=True)
class Learnt:
    """What came of it.

    Attributes:
        accuracy: On the batch, over the last steps.
        loss: The same of the loss.
        samples: Size of the batch.
        steps: Steps that it took.
    """

    accuracy: float
    loss: float
    samples: int
    steps: int

    @property
    def whole(self) -> bool:
        """Whether every sample was learnt."""
        return self.accuracy == 1

    def __str__(self) -> str:
        found = (
            f"{self.accuracy:.1%} of one batch of {self.samples} samples after {self.steps} steps, loss {self.loss:.2g}"
        )
        if self.whole:
            return f"the network can learn: {found}"
        return (
            f"the network can't even learn one batch by heart: {found}; look at the learning rate (--find_lr), at "
            "layers that pass nothing on (--watch), and at the labels"
        )


def overfit_batch(model: Classifier, data: LightningDataModule, *, steps: int = 1000, **options: Any) -> Learnt:
    """Trains a copy of a model on its first training batch until it knows it by heart.

    Augmentation, dropout, label smoothing, schedule and warm-up are left out: what remains must reach 100%, or
    something is broken. The model, its random numbers and the disk stay as they are.

    Args:
        model: The model, with the optimizer that it is to be trained with.
        data: What it is to be trained on.
        steps: Steps at most.
        **options: Arguments for the Trainer, `accelerator` for example.

    Raises:
        ValueError: If nothing of the model can be trained, or it predicts no classes.
    """
    if not model.classifies:
        raise ValueError(f"{type(model).__name__} predicts numbers: no share of right answers says that it has learnt")
    without = twin(model)
    without.label_smoothing, without.class_weights = 0.0, None
    if getattr(model, "waits", False):  # a backbone that is to be trained later
        without.unfreeze_epoch = 0  # type: ignore[assignment]
    for module in without.modules():
        if "Dropout" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    learnt = EarlyStopping(
        "train/accuracy", mode="max", stopping_threshold=1 - 1e-6, patience=steps, check_on_train_epoch_end=True
    )
    batch = first_batch(data)
    batches: DataLoader[Batch] = DataLoader([batch] * EPOCH, batch_size=None)  # type: ignore[arg-type]
    trainer = trial(without, batches, steps, [learnt, FiniteLoss()], **options)
    accuracy, loss = (trainer.callback_metrics[f"train/{name}"].item() for name in ("accuracy", "loss"))
    return Learnt(accuracy, loss, len(batch[1]), trainer.global_step)


def first_batch(data: LightningDataModule) -> Batch:
    """The first training batch as the model receives it, but not augmented."""
    data.prepare_data()
    data.setup("fit")
    batch: Batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    return batch
