"""A data loader that can resume in the middle of an epoch, and the loaders of a data module."""

import math
import os
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from kindling.data.datasets import ArrayDataset, SeededDataset
from kindling.data.samplers import EpochSampler, EvenBatches, Share, TrainingBatches
from kindling.utils.shared_batches import synchronizes_batch_norm, trained_batch_norms


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that can resume in the middle of an epoch if its sampler is an `EpochSampler`.

    Attributes:
        before_batch: Called before each batch is loaded, when the previous one is finished.
        samples: Number of samples of the current epoch loaded so far, over all processes.
        share: Share of the current batch in this process, for batches from `TrainingBatches`.
        seconds: Total time spent on loading batches.
    """

    before_batch: Callable[[], None] | None = None
    samples = 0
    share = Share(1, 1)
    seconds = 0.0

    @property
    def sampler(self) -> Any:
        """The sampler that the batches come from; with a batch sampler, DataLoader would return another one."""
        return getattr(self.batch_sampler, "sampler", self._sampler)

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self._sampler = sampler

    @property
    def weight(self) -> float:
        """Weight of the mean loss of this process, so that the mean over the processes is that over all samples."""
        return self.share.own * getattr(self.batch_sampler, "processes", 1) / self.share.total

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.samples = getattr(self.sampler, "start", 0)
        shares: Iterator[Share] = repeat(self.share)
        if isinstance(self.batch_sampler, TrainingBatches):
            shares = self.batch_sampler.shares(len(self.sampler) - self.samples)
        batches = super().__iter__()
        while True:
            if self.before_batch:
                self.before_batch()
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            self.share = next(shares)
            self.samples += self.share.total
            yield batch


def identity_collate(batch: Any) -> Any:
    """Return the batch unchanged, as `ArrayDataset` returns whole batches."""
    return batch


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
