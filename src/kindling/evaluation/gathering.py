"""Puts the predictions of several processes in the order of the rows."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor, distributed

from kindling.models.batches import batch_size
from kindling.training.output_collector import interleave
from kindling.utils.trees import tree_flatten, tree_unflatten


def gather_predictions(trainer: Trainer, batches: Sequence[Any], as_one: bool) -> list[Any]:
    """Return the predictions of all processes, in the batches and the order that one process gives them.

    Of W processes, rank r predicts the rows r, r + W, ...; each predicts all rows if there are fewer than W. Every
    process must call this function after `predict`; processes other than the first get an empty list.

    Args:
        trainer: The Trainer.
        batches: The outputs of `predict_step` in this process.
        as_one: Whether to return all rows as one batch.

    Raises:
        ValueError: If the order of the rows is unknown.
    """
    batch_sampler = getattr(trainer.predict_dataloaders, "batch_sampler", None)
    sampler, size = getattr(batch_sampler, "sampler", None), getattr(batch_sampler, "batch_size", None)
    if getattr(sampler, "num_replicas", 0) == 1:
        return list(batches)
    if not isinstance(sampler, UnrepeatedDistributedSampler) or not size:
        raise ValueError("predict can't tell the order of the rows on several devices: add --trainer.devices 1")
    flat = [tree_flatten(batch) for batch in batches]
    if any(not isinstance(leaf, Tensor) or len(leaf) != batch_size(leaves) for leaves, _ in flat for leaf in leaves):
        raise ValueError(
            "to predict on several devices, predict_step must return tensors with one row per sample: return such "
            "tensors, or add --trainer.devices 1"
        )
    # One tensor for all batches of each leaf.
    columns = [torch.cat(parts).cpu() for parts in zip(*(leaves for leaves, _ in flat), strict=True)]
    gathered: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(columns, gathered)
    if gathered is None:
        return []
    rows = [interleave(parts) for parts in zip(*gathered, strict=True)]
    structure, size = flat[0][1], len(rows[0]) if as_one else size
    split = zip(*(torch.split(column, size) for column in rows), strict=True)
    return [tree_unflatten(list(leaves), structure) for leaves in split]
