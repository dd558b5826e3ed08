"""Creation of the data loaders of a data module, and their batch size."""

import math
import os
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from kindling.data.loading import (
    ArrayDataset,
    EpochSampler,
    EvenBatches,
    ResumableLoader,
    SeededDataset,
    TrainingBatches,
    identity_collate,
)
from kindling.utils.shared_batches import synchronizes_batch_norm, trained_batch_norms


def make_loader(data: Any, dataset: Any, batch_size: int, shuffle: bool = False) -> ResumableLoader:
    """Return a data loader of a data module, shuffled for training, in order for evaluation."""
    world_size, rank = (data.trainer.world_size, data.trainer.global_rank) if data.trainer else (1, 0)
    device = data.trainer.strategy.root_device if data.trainer else torch.device("cpu")
    in_memory, seed = isinstance(dataset, ArrayDataset), int(os.environ.get("PL_GLOBAL_SEED", 0))
    if in_memory:
        # Data on the GPU saves a copy per batch, but worker processes can't share it.
        dataset = dataset.to(device if data.num_workers == 0 else torch.device("cpu"))
    else:
        dataset = SeededDataset(dataset, seed)
    batches: dict[str, Any]
    if shuffle:
        # The order of an epoch depends only on the seed and the epoch, so a resumed run sees the same batches.
        smallest = _smallest_batch(data.trainer, batch_size) if world_size > 1 else 2
        sampler = EpochSampler(dataset, seed)
        shares = TrainingBatches(sampler, batch_size, world_size, rank, smallest)
        if data.min_batches > 1 and len(dataset):  # the same on any number of devices
            sampler.passes = data.passes or math.ceil(data.min_batches * batch_size / len(dataset))
        batches = {"batch_sampler": shares}
    else:
        # DistributedSampler would repeat samples, which would count twice in the metrics. With fewer samples than
        # processes, each process evaluates all: Lightning skips the hooks of a process without batches and the others
        # would wait for it forever.
        world_size, rank = (world_size, rank) if len(dataset) >= world_size else (1, 0)
        in_order = UnrepeatedDistributedSampler(dataset, world_size, rank, shuffle=False)
        batches = {"batch_size": batch_size, "sampler": in_order}
        if world_size > 1:
            batches = {"batch_sampler": EvenBatches(in_order, batch_size, drop_last=False)}
    on_gpu = in_memory and dataset.labels.device.type != "cpu"
    loader = ResumableLoader(
        dataset,
        **batches,
        num_workers=data.num_workers,
        collate_fn=identity_collate if in_memory else data.collate,
        # Copies from pinned memory to a GPU are asynchronous.
        pin_memory=device.type == "cuda" and not on_gpu,
        # Its own generator: creating a loader must not advance the global random state.
        generator=torch.Generator(),
        persistent_workers=data.num_workers > 0,
    )
    if shuffle and world_size > 1:
        _weigh_losses(data.trainer.strategy, loader)
    return loader


def _smallest_batch(trainer: Trainer, batch_size: int) -> int:
    """Return the smallest number of samples of a training batch over several processes.

    Raises:
        ValueError: If batches have fewer samples than there are processes.
    """
    if batch_size < trainer.world_size:
        raise ValueError(
            f"--data.batch_size {batch_size} is too small for {trainer.world_size} processes: it counts the samples of "
            "one batch over all of them"
        )
    norms = trained_batch_norms(trainer.lightning_module)
    return 2 * trainer.world_size if norms and not synchronizes_batch_norm(trainer) else 2


def _weigh_losses(strategy: Strategy, loader: ResumableLoader) -> None:
    """Weigh the loss of each process by its share of the batch: strategies average gradients over the processes."""
    backward = type(strategy).backward.__get__(strategy)

    def weigh(loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        return backward(loss if loader.weight == 1 else loss * loader.weight, *args, **kwargs)

    strategy.backward = weigh  # type: ignore[assignment, method-assign]


def automatic_batch_size(samples: int) -> int:
    """Return the batch size for a number of training samples, a power of two."""
    wanted = max(min(256.0, samples / 34), samples / 400, 32.0)
    return int(2 ** round(math.log2(wanted)))
