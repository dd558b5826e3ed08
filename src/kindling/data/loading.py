"""Datasets, samplers and a data loader that can resume in the middle of an epoch."""

import copy
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    get_worker_info,
)
from typing_extensions import override

Batch = tuple[Tensor, Tensor]


class LazyInputs(Protocol):
    """Inputs read on demand, indexed by a tensor (n,) like a tensor (N, ...)."""

    def __getitem__(self, index: Tensor) -> Tensor: ...


class ArrayDataset(Dataset[Batch]):
    """A dataset of two tensors, indexed a whole batch at a time.

    Args:
        inputs: Images as uint8 or features as float32, shape (N, ...); or lazy inputs, which read them on demand.
        labels: Targets: classes as int64, or numbers as float32, shape (N,).

    Attributes:
        is_shuffled: Whether the training samples are stored in random order.
    """

    is_shuffled = False

    def __init__(self, inputs: Tensor | LazyInputs, labels: Tensor) -> None:
        self.inputs: Any = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "ArrayDataset":
        """Return a copy on a GPU, if the samples are in memory and take at most a quarter of its free memory."""
        moved = copy.copy(self)
        if isinstance(self.inputs, Tensor) and 4 * self.inputs.nbytes <= free_memory(device):
            moved.inputs, moved.labels = self.inputs.to(device), self.labels.to(device)
        return moved

    def __getitem__(self, index: int) -> Batch:
        inputs, labels = self.__getitems__([index])
        return inputs[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        if self.labels.is_cuda:
            index = index.pin_memory().to(self.labels.device, non_blocking=True)
        return self.inputs[index], self.labels[index]


class SeededDataset(Dataset[Any]):
    """A map-style dataset whose random transforms depend only on seed, epoch and sample in worker processes.

    They are the same for any number of workers and wherever an epoch resumes. Without worker processes they use the
    global random state, which checkpoints save.

    Args:
        dataset: The dataset.
        seed: Seed of the transforms.
    """

    has_epoch_keys = True

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: int) -> Any:
        if get_worker_info() is not None:
            seed = (self.seed + 0x9E3779B97F4A7C15 * (key + 1)) % 2**64  # spreads the seeds of consecutive keys
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  (the generator that transforms use)
        return self.dataset[key % len(self)]


def as_dataset(samples: Any) -> Dataset[Any]:
    """Return samples as a dataset, also if they are two tensors or arrays, inputs (N, ...) and targets (N,).

    Raises:
        ValueError: If the samples have no length.
    """
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[1], Tensor | np.ndarray):
        return ArrayDataset(*(_as_tensor(one) if isinstance(one, np.ndarray) else one for one in samples))
    if isinstance(samples, IterableDataset) or not hasattr(samples, "__len__"):
        raise ValueError(
            f"`load` returned {type(samples).__name__}, which has no length: return two tensors or a dataset with "
            "`__len__`, or write a LightningDataModule"
        )
    dataset: Dataset[Any] = samples
    return dataset


def _as_tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor of the type that models and losses expect."""
    tensor = torch.from_numpy(array)
    types = {torch.float64: torch.float32, torch.int32: torch.int64, torch.int16: torch.int64}
    return tensor.to(types.get(tensor.dtype, tensor.dtype))


def subset(dataset: Dataset[Any], rows: Tensor) -> Dataset[Any]:
    """Return the samples at some indices of a dataset; an `ArrayDataset` stays one."""
    if isinstance(dataset, ArrayDataset):
        return ArrayDataset(dataset.inputs[rows], dataset.labels[rows])
    return Subset(dataset, rows.tolist())


def targets_of(dataset: Dataset[Any]) -> Tensor | None:
    """Return the attribute `labels` or `targets` of a dataset, shape (N,); None if it has neither."""
    if isinstance(dataset, Subset):
        targets = targets_of(dataset.dataset)
        return None if targets is None else targets[torch.tensor(dataset.indices)]
    targets = getattr(dataset, "labels", getattr(dataset, "targets", None))
    return None if targets is None else torch.as_tensor(targets)


def inputs_of(dataset: Dataset[Any], rows: Tensor) -> Tensor | None:
    """Return the inputs (n, ...) at some indices; None if they are not tensors of one shape."""
    if isinstance(dataset, ArrayDataset):
        inputs: Tensor = dataset.inputs[rows]
        return inputs
    samples = [dataset[row][0] for row in rows.tolist()]
    shapes = {sample.shape if isinstance(sample, Tensor) else None for sample in samples}
    return torch.stack(samples) if len(shapes) == 1 and None not in shapes else None


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
    a batch of fewer samples than processes, the others get a sample too, as they may not miss a batch; their share is
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


def free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes; 0 for any other device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def identity_collate(batch: Any) -> Any:
    """Return the batch unchanged, as `ArrayDataset` returns whole batches."""
    return batch
