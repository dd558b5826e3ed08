"""Creation of the data loaders of a data module, and their batch size."""

import math
import os
from typing import Any

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler

from kindling.data.loading import (
    ArrayDataset,
    EpochSampler,
    ResumableLoader,
    SeededDataset,
    TrainingBatches,
    identity_collate,
)


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
        shuffled = EpochSampler(dataset, world_size, rank, seed=seed)
        batches = {"batch_sampler": TrainingBatches(shuffled, batch_size, drop_last=False)}
    else:
        # DistributedSampler would repeat samples, which would count twice in the metrics. With fewer samples than
        # processes, each process evaluates all: Lightning skips the hooks of a process without batches and the others
        # would wait for it forever.
        world_size, rank = (world_size, rank) if len(dataset) >= world_size else (1, 0)
        in_order = UnrepeatedDistributedSampler(dataset, world_size, rank, shuffle=False)
        batches = {"batch_size": batch_size, "sampler": in_order}
    on_gpu = in_memory and dataset.labels.device.type != "cpu"
    return ResumableLoader(
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


def automatic_batch_size(samples: int) -> int:
    """Return the batch size for a number of training samples, a power of two."""
    wanted = max(min(256.0, samples / 34), samples / 400, 32.0)
    return int(2 ** round(math.log2(wanted)))
