"""Collects the outputs of a model for each sample of a split, for reports and plots."""

from collections.abc import Sequence, Sized
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from kindling.data import BaseDataModule
from kindling.models.classification import ClassificationTask
from kindling.models.many_classes import MANY_CLASSES, TopClasses
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import RegressionTask
from kindling.training.row_buffer import RowBuffer

Outputs = Tensor | TopClasses


def is_collected(trainer: Trainer, model: LightningModule) -> bool:
    """Return whether the model is one of Kindling's tasks with a report, and the data one of its data modules."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return isinstance(data, BaseDataModule) and isinstance(model, ClassificationTask | RegressionTask | MultiLabelTask)


class OutputBuffer:
    """Outputs and targets of a split, for tasks that predict one class, one number or several classes per sample.

    Attributes:
        keeps_all: Whether all probabilities of a sample are kept, also of more than `MANY_CLASSES` classes.
    """

    def __init__(self) -> None:
        self.keeps_all = False
        self._rows = RowBuffer()  # of outputs or the parts of `TopClasses`, and of targets

    def is_shortened(self, model: LightningModule) -> bool:
        """Return whether only the most probable classes of each sample are kept."""
        return isinstance(model, ClassificationTask) and model.num_classes > MANY_CLASSES and not self.keeps_all

    def add(self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any) -> None:
        """Add outputs (n, classes) or (n,) and targets (n,) or (n, classes) of one batch, and copy them to the CPU."""
        dims = 2 if isinstance(model, MultiLabelTask) else 1
        if not is_collected(trainer, model) or batch[1].ndim != dims:  # one class per position
            return
        parts: tuple[Tensor, ...] = (outputs,)
        if isinstance(model, ClassificationTask) and self.is_shortened(model):
            losses = losses_of(model, outputs, batch[1]) if trainer.testing else None
            parts = TopClasses.of(outputs, batch[1], losses).exp()
        if not self._rows:
            self._rows = RowBuffer(number_of_samples(trainer))
        self._rows.add((*parts, batch[1]))

    def clear(self) -> None:
        """Remove all batches."""
        self._rows = RowBuffer()

    def gather(self, trainer: Trainer, model: LightningModule) -> tuple[Outputs, Tensor] | None:
        """Return outputs (N, classes) or (N,) and targets (N,) or (N, classes) of all processes; clear the buffer.

        They are in the order of the dataset. Returns None if there are none.
        """
        if not is_collected(trainer, model) or (trainer.world_size == 1 and not self._rows):
            return None
        parts = self._rows.take() or self._no_rows(model)  # a process may have had no batch
        return outputs_and_targets([gather_samples(part, trainer) for part in parts])

    def _no_rows(self, model: LightningModule) -> tuple[Tensor, ...]:
        if isinstance(model, MultiLabelTask):
            return torch.empty(0, model.num_classes), torch.empty(0, model.num_classes)
        if not isinstance(model, ClassificationTask):
            return torch.empty(0), torch.empty(0)
        outputs, labels = torch.empty(0, model.num_classes), torch.empty(0, dtype=torch.long)
        return (*TopClasses.of(outputs, labels), labels) if self.is_shortened(model) else (outputs, labels)


def number_of_samples(trainer: Trainer) -> int:
    """Return the number of samples that this process evaluates; 0 if it is not known."""
    sampler = getattr(trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders, "sampler", None)
    return len(sampler) if isinstance(sampler, Sized) else 0


def losses_of(model: ClassificationTask, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each sample, (n,), given log-probabilities (n, classes) and labels (n,)."""
    samples = zip(torch.split(outputs, 1), torch.split(targets, 1), strict=True)
    return torch.stack([model.loss_of_test_outputs(*sample) for sample in samples])


def outputs_and_targets(parts: Sequence[Tensor]) -> tuple[Outputs, Tensor]:
    """Return outputs and targets of samples, given the outputs or the parts of `TopClasses`, and the targets."""
    *outputs, targets = parts
    return (outputs[0] if len(outputs) == 1 else TopClasses(*outputs)), targets


class TestOutputCollector(Callback):
    """Collects outputs and targets of a test on the CPU, in the order of the dataset.

    Attributes:
        outputs: Log-probabilities (N, classes), or those of the most probable classes of more than `MANY_CLASSES`;
            predicted values (N,); or logits (N, classes) of a multi-label classifier. None for other models and data.
        targets: Labels or values (N,); or 1 for each class of a sample (N, classes).
        buffer: Outputs and targets so far.
    """

    outputs: Outputs | None = None
    targets: Tensor | None = None

    def __init__(self) -> None:
        self.buffer = OutputBuffer()
        self._predicted = RowBuffer()

    def shortens(self, model: LightningModule, data: object) -> bool:
        """Return whether `take_predicted` replaces the predictions of the Trainer, which would need much memory."""
        return isinstance(data, BaseDataModule) and self.buffer.is_shortened(model)

    def take_predicted(self) -> list[TopClasses | Tensor]:
        """Return the most probable classes of all samples as one batch; all probabilities if they have positions."""
        parts = self._predicted.take()
        return [TopClasses(*parts) if len(parts) > 1 else parts[0]] if parts else []

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.buffer.add(trainer, pl_module, outputs, batch)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs, self.targets = self.buffer.gather(trainer, pl_module) or (None, None)

    @override
    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        if self.shortens(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            self._predicted.add(TopClasses.of(outputs) if outputs.ndim == 2 else (outputs,))


def gather_samples(part: Tensor, trainer: Trainer) -> Tensor:
    """Return the values (N, ...) of all samples, given those (n, ...) of this process.

    Of W processes, rank r evaluates the samples r, r + W, ...; each evaluates all samples if there are fewer than W.
    """
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    sampler = getattr(loader, "sampler", None)
    if getattr(sampler, "num_replicas", trainer.world_size) == 1:
        return part
    parts = gather_all_tensors(part.to(trainer.strategy.root_device))  # their lengths may differ by one
    return interleave([gathered.cpu() for gathered in parts])


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows (N, ...) of parts, of which part r of W has the rows r, r + W, ..."""
    rows = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        rows[rank :: len(parts)] = part
    return rows
