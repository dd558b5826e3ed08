"""Samplers: the order of training samples, and the share of each process of a batch."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, DistributedSampler
from typing_extensions import override


class EpochSampler(DistributedSampler[int]):
    """A shuffling sampler whose order depends only on seed and epoch, and that can skip the first samples.

    It returns the samples of all processes, of which `TrainingBatches` takes the share of one; Lightning replaces
    samplers other than a DistributedSampler. A dataset with a method `shuffle` decides the order. If it has
    `has_epoch_keys`, such as `SeededDataset`, keys also encode the pass: pass * number of samples + index.

    Args:
        dataset: The dataset.
        seed: Seed of the order.

    Attributes:
        start: Number of samples to skip at the beginning of the next epoch.
        passes: Number of times that an epoch goes through the dataset, each time in another order.
    """

    start = 0
    passes = 1

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, seed=seed)

    @override
    def __len__(self) -> int:
        return self.passes * len(self.dataset)  # type: ignore[arg-type]

    @override
    def __iter__(self) -> Iterator[int]:
        number = len(self.dataset)  # type: ignore[arg-type]
        shuffle: Callable[..., Tensor] = getattr(self.dataset, "shuffle", partial(torch.randperm, number))
        has_keys = getattr(self.dataset, "has_epoch_keys", False)
        keys: list[int] = []
        for turn in range(self.epoch * self.passes, (self.epoch + 1) * self.passes):
            order = shuffle(generator=torch.Generator().manual_seed(self.seed + turn))
            keys += (order + turn * number * has_keys).tolist()
        remaining, self.start = keys[self.start :], 0
        return iter(remaining)


class Share(NamedTuple):
    """Number of samples of a training batch in this process, and in all processes."""

    own: int
    total: int


class TrainingBatches(BatchSampler):
    """The share of one process of each training batch; the processes take the samples of a batch in turns.

    A last batch of fewer than `smallest` samples is added to the batch before it, as batch norm fails on one sample. In
    a batch of fewer samples than processes, the others get a sample too, as each process needs a batch; their share is
    0, and so is the weight of their loss.

    Args:
        sampler: The samples of all processes, in order.
        batch_size: Number of samples of a batch over all processes.
        processes: Number of processes.
        rank: Rank of this process.
        smallest: Smallest number of samples of a last batch.
    """

    def __init__(
        self, sampler: Iterable[int], batch_size: int, processes: int = 1, rank: int = 0, smallest: int = 2
    ) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.processes, self.rank, self.smallest = processes, rank, smallest

    @override
    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        start = 0
        for _, total in self.shares(len(order)):
            batch = order[start : start + total]
            yield batch[self.rank :: self.processes] or [batch[self.rank % total]]
            start += total

    @override
    def __len__(self) -> int:
        return self.count(len(self.sampler))  # type: ignore[arg-type]

    def count(self, samples: int) -> int:
        """Return the number of batches for a number of samples."""
        full, rest = divmod(samples, self.batch_size)
        return full + (rest >= self.smallest or (rest > 0 and full == 0))

    def shares(self, samples: int) -> Iterator[Share]:
        """Yield the share of each batch for a number of samples."""
        batches = self.count(samples)
        for number in range(batches):
            total = self.batch_size if number < batches - 1 else samples - number * self.batch_size
            yield Share(len(range(self.rank, total, self.processes)), total)


class EvenBatches(BatchSampler):
    """Batches of the same number in all processes, whose numbers of samples differ by one at most.

    A process without a batch would keep the others waiting if they exchange values in each, as with sharded weights.
    """

    sampler: DistributedSampler[int]

    @override
    def __iter__(self) -> Iterator[list[int]]:
        order, batches = list(self.sampler), len(self)
        for number in range(batches):
            yield order[number * len(order) // batches : (number + 1) * len(order) // batches]

    @override
    def __len__(self) -> int:
        samples, processes = len(self.sampler.dataset), self.sampler.num_replicas  # type: ignore[arg-type]
        return min(math.ceil(samples / processes / self.batch_size), samples // processes)
