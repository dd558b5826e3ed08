"""A sheet of augmented training images in TensorBoard."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kindling.data.datasets import inputs_of, targets_of
from kindling.evaluation.multilabel import names_of_classes
from kindling.models.batches import as_pair, mixes
from kindling.models.classification import ClassificationTask
from kindling.models.multilabel import MultiLabelTask
from kindling.tensorboard.images import add_picture, image_grid
from kindling.tensorboard.predictions import names_of
from kindling.utils.pictures import are_images
from kindling.utils.text import format_numbers

SAMPLES = 30  # on the sheet


def write_training_samples(writer: SummaryWriter, trainer: Trainer, model: LightningModule, batch: Any) -> None:
    """Write the first images of a training batch with their targets; nothing if the samples are not images."""
    inputs, targets = first_samples(trainer, batch)
    per_class = isinstance(model, MultiLabelTask) or mixes(trainer)
    if are_images(inputs) and targets.ndim == (2 if per_class else 1):
        sheet = image_grid(inputs, [[text] for text in target_texts(model, targets)])
        add_picture(writer, "pictures/training samples", sheet, trainer.global_step)


def target_texts(model: LightningModule, targets: Tensor) -> list[str]:
    """Return labels as names, shares of classes with the names, or values as numbers, (n,)."""
    if isinstance(model, ClassificationTask | MultiLabelTask) and mixes(model.trainer) and targets.ndim == 2:
        shares = ([(share, label) for label, share in enumerate(row) if share > 0] for row in targets.tolist())
        return [
            ", ".join(f"{model.class_names[label]} {share:.0%}" for share, label in sorted(each, reverse=True))
            for each in shares
        ]
    if isinstance(model, MultiLabelTask):
        return names_of_classes(targets.bool(), model.class_names)
    if isinstance(model, ClassificationTask):
        return names_of(targets, model.class_names)
    return format_numbers(targets.tolist())


def first_samples(trainer: Trainer, batch: Any) -> tuple[Any, Tensor]:
    """Return the first samples as the network receives them; if it receives cached features, the images themselves."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    inputs, labels = as_pair(batch, trainer.lightning_module)
    labels = labels.cpu()
    if isinstance(inputs, Tensor) and inputs.ndim == 2 and len(getattr(data, "input_shape", ())) == 3:
        first = torch.arange(min(SAMPLES, len(data.train)))
        targets = targets_of(data.train)
        return inputs_of(data.train, first), labels if targets is None else targets[first]
    return (inputs[:SAMPLES].cpu() if are_images(inputs) else inputs), labels[:SAMPLES]
