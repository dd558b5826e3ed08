"""Outputs of a model for each sample of a split, for reports and pictures."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from kindling.data import BaseDataModule
from kindling.models.classification import ClassificationTask
from kindling.models.regression import RegressionTask


def is_collected(trainer: Trainer, model: LightningModule) -> bool:
    """Return whether outputs of a model mean something here: one class or one number for each sample of our data."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return isinstance(data, BaseDataModule) and isinstance(model, ClassificationTask | RegressionTask)


class Batches:
    """Outputs and targets of a split, batch by batch, of tasks that predict one class or one number a sample."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []

    def add(self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any) -> None:
        """Keep those of one batch, shapes (n, classes) or (n,), and (n,), on the CPU."""
        if is_collected(trainer, model) and batch[1].ndim == 1:  # not a class for each position
            self._batches.append((outputs.cpu(), batch[1].cpu()))

    def clear(self) -> None:
        """Forget them."""
        self._batches.clear()

    def together(self, trainer: Trainer, model: LightningModule) -> tuple[Tensor, Tensor] | None:
        """Return those of all processes in the order of the dataset, (N, classes) or (N,), and (N,), and forget them.

        None where there are none.
        """
        if not is_collected(trainer, model) or (trainer.world_size == 1 and not self._batches):
            return None
        # A process may have had no batch: then its share is empty.
        classes = (model.num_classes,) if isinstance(model, ClassificationTask) else ()
        dtype = torch.long if classes else torch.float
        nothing = torch.empty(0, *classes), torch.empty(0, dtype=dtype)
        outputs, targets = (torch.cat(parts) for parts in zip(nothing, *self._batches, strict=True))
        self._batches.clear()
        return whole(outputs, trainer), whole(targets, trainer)


class TestOutputCollector(Callback):
    """Keeps outputs and targets (N,) of a test on the CPU, in the order of the dataset.

    Outputs are logarithms of probabilities, (N, classes), since a small probability loses its digits in a float; or
    numbers, (N,). Both are None for other tasks than classification and regression.
    """

    answers: Tensor | None = None
    labels: Tensor | None = None

    def __init__(self) -> None:
        self._batches = Batches()

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self._batches.add(trainer, pl_module, outputs, batch)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.answers, self.labels = self._batches.together(trainer, pl_module) or (None, None)


def whole(share: Tensor, trainer: Trainer) -> Tensor:
    """Join the shares (n, ...) of all processes.

    Of W processes, rank r evaluates the samples r, r + W, ...; a split of fewer than W samples each of them evaluates
    whole.
    """
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    sampler = getattr(loader, "sampler", None)
    if getattr(sampler, "num_replicas", trainer.world_size) == 1:
        return share
    shares = gather_all_tensors(share.to(trainer.strategy.root_device))  # they may differ in length by one
    together = share.new_empty(sum(map(len, shares)), *share.shape[1:])
    for rank, part in enumerate(shares):
        together[rank :: trainer.world_size] = part.cpu()
    return together
