"""Collects the outputs of a model for each sample of a split, for reports and plots."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from kindling.data import BaseDataModule
from kindling.models.classification import ClassificationTask
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import RegressionTask


def is_collected(trainer: Trainer, model: LightningModule) -> bool:
    """Return whether the model is one of Kindling's tasks with a report, and the data one of its data modules."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return isinstance(data, BaseDataModule) and isinstance(model, ClassificationTask | RegressionTask | MultiLabelTask)


class OutputBuffer:
    """Outputs and targets of a split, for tasks that predict one class, one number or several classes per sample."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []

    def add(self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any) -> None:
        """Add outputs (n, classes) or (n,) and targets (n,) or (n, classes) of one batch, and copy them to the CPU."""
        dims = 2 if isinstance(model, MultiLabelTask) else 1
        if is_collected(trainer, model) and batch[1].ndim == dims:  # not one class per position
            self._batches.append((outputs.cpu(), batch[1].cpu()))

    def clear(self) -> None:
        """Remove all batches."""
        self._batches.clear()

    def gather(self, trainer: Trainer, model: LightningModule) -> tuple[Tensor, Tensor] | None:
        """Return outputs (N, classes) or (N,) and targets (N,) or (N, classes) of all processes; clear the buffer.

        They are in the order of the dataset. Returns None if there are none.
        """
        if not is_collected(trainer, model) or (trainer.world_size == 1 and not self._batches):
            return None
        # A process may have had no batch.
        empty = torch.empty(0), torch.empty(0)
        if isinstance(model, ClassificationTask):
            empty = torch.empty(0, model.num_classes), torch.empty(0, dtype=torch.long)
        if isinstance(model, MultiLabelTask):
            empty = torch.empty(0, model.num_classes), torch.empty(0, model.num_classes)
        outputs, targets = (torch.cat(parts) for parts in zip(empty, *self._batches, strict=True))
        self._batches.clear()
        return gather_samples(outputs, trainer), gather_samples(targets, trainer)


class TestOutputCollector(Callback):
    """Collects outputs and targets of a test on the CPU, in the order of the dataset.

    Attributes:
        outputs: Log-probabilities (N, classes), predicted values (N,), or logits (N, classes) of a multi-label
            classifier; None for unsupported models and data.
        targets: Labels or values (N,); or 1 for each class of a sample (N, classes).
    """

    outputs: Tensor | None = None
    targets: Tensor | None = None

    def __init__(self) -> None:
        self._buffer = OutputBuffer()

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self._buffer.add(trainer, pl_module, outputs, batch)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs, self.targets = self._buffer.gather(trainer, pl_module) or (None, None)


def gather_samples(part: Tensor, trainer: Trainer) -> Tensor:
    """Return the values (N, ...) of all samples, given those (n, ...) of this process.

    Of W processes, rank r evaluates the samples r, r + W, ...; each evaluates all samples if there are fewer than W.
    """
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    sampler = getattr(loader, "sampler", None)
    if getattr(sampler, "num_replicas", trainer.world_size) == 1:
        return part
    parts = gather_all_tensors(part.to(trainer.strategy.root_device))  # their lengths may differ by one
    samples = part.new_empty(sum(map(len, parts)), *part.shape[1:])
    for rank, gathered in enumerate(parts):
        samples[rank :: trainer.world_size] = gathered.cpu()
    return samples
