"""Datasets that the loaders take, and a loader that can resume in the middle of an epoch."""

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol

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
    """Inputs that are made as they are asked for, like a tensor (N, ...) indexed by a tensor (n,)."""

    def __getitem__(self, index: Tensor) -> Tensor: ...


class ArrayDataset(Dataset[Batch]):
    """Samples kept as two tensors and indexed a whole batch at a time.

    Args:
        inputs: The samples, shape (N, ...): images as uint8, features as float32. Or what reads them from a disk.
        labels: Their classes, shape (N,), int64.
    """

    def __init__(self, inputs: Tensor | LazyInputs, labels: Tensor) -> None:
        self.inputs: Any = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "ArrayDataset":
        """A dataset of the same samples: on a GPU, where they are in memory and fit there easily."""
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
    """Any map-style dataset, with random numbers that depend on seed, epoch and sample alone in worker processes.

    So random transforms are the same however many workers there are, and wherever an epoch is resumed. Without worker
    processes they use the random numbers of the training, which a checkpoint holds.

    Args:
        dataset: The dataset.
        seed: Seed of the samples.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: int) -> Any:
        if get_worker_info() is not None:
            seed = (self.seed + 0x9E3779B97F4A7C15 * (key + 1)) % 2**64  # neighbours get seeds that are far apart
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  (the generator that transforms use)
        return self.dataset[key % len(self)]


def as_dataset(samples: Any) -> Dataset[Any]:
    """Return a dataset of samples that may be two tensors, inputs (N, ...) and targets (N,).

    Raises:
        ValueError: If the samples have no length.
    """
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[1], Tensor):
        return ArrayDataset(*samples)
    if isinstance(samples, IterableDataset) or not hasattr(samples, "__len__"):
        raise ValueError(
            f"load returned {type(samples).__name__}, which has no length: return two tensors or a dataset with "
            "__len__, or write a LightningDataModule with loaders of its own"
        )
    dataset: Dataset[Any] = samples
    return dataset


def subset(dataset: Dataset[Any], rows: Tensor) -> Dataset[Any]:
    """Return some samples of a dataset, in memory as tensors if that is how the dataset keeps them."""
    if isinstance(dataset, ArrayDataset):
        return ArrayDataset(dataset.inputs[rows], dataset.labels[rows])
    return Subset(dataset, rows.tolist())


def targets_of(dataset: Dataset[Any]) -> Tensor | None:
    """Return the targets (N,) of a dataset that has them as `labels` or `targets`, as torchvision's do; else None."""
    if isinstance(dataset, Subset):
        targets = targets_of(dataset.dataset)
        return None if targets is None else targets[torch.tensor(dataset.indices)]
    targets = getattr(dataset, "labels", getattr(dataset, "targets", None))
    return None if targets is None else torch.as_tensor(targets)


def inputs_of(dataset: Dataset[Any], rows: Tensor) -> Tensor | None:
    """Return the inputs (n, ...) of some samples; None where they are not tensors of one shape."""
    if isinstance(dataset, ArrayDataset):
        inputs: Tensor = dataset.inputs[rows]
        return inputs
    inputs_each = [dataset[row][0] for row in rows.tolist()]
    shapes = {one.shape if isinstance(one, Tensor) else None for one in inputs_each}
    return torch.stack(inputs_each) if len(shapes) == 1 and None not in shapes else None


class EpochSampler(DistributedSampler[int]):
    """Shuffles an epoch by seed and epoch alone, and can leave out the samples that were trained on already.

    Processes take turns in one common order, so an epoch can continue with another number of them. For a
    `SeededDataset` an index is followed by its epoch: epoch * samples + index.

    Attributes:
        start: Samples at the beginning of the next epoch's order, of all processes together, that are left out.
    """

    start = 0

    @override
    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()  # type: ignore[arg-type]
        left, self.start = order[self.start :], 0
        left += islice(cycle(order), -len(left) % self.num_replicas)  # as many for each process
        first = self.epoch * len(order) if isinstance(self.dataset, SeededDataset) else 0
        return (first + index for index in left[self.rank :: self.num_replicas])


class TrainingBatches(BatchSampler):
    """Batches of which none has a single sample, for which batch norm has no variance: it joins the batch before it."""

    @override
    def __iter__(self) -> Iterator[list[int]]:
        order, size = list(self.sampler), self.batch_size
        batches = self.count(len(order))
        for number in range(batches):
            yield order[number * size : (number + 1) * size if number < batches - 1 else None]

    @override
    def __len__(self) -> int:
        return self.count(len(self.sampler))  # type: ignore[arg-type]

    def count(self, samples: int) -> int:
        """Return the number of batches that so many samples make."""
        full, rest = divmod(samples, self.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that can continue in the middle of an epoch, where its sampler is an `EpochSampler`.

    Attributes:
        before_batch: Called before a batch is loaded, when all that belongs to the batch before it is done.
        samples: Samples of the current epoch in the batches so far, of all processes together.
        seconds: Time that loading batches took.
    """

    before_batch: Callable[[], None] | None = None
    samples = 0
    seconds = 0.0

    @property
    def sampler(self) -> Any:
        """The sampler from which batches are made; a DataLoader with a batch sampler would name another one."""
        return getattr(self.batch_sampler, "sampler", self._sampler)

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self._sampler = sampler

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.samples = getattr(self.sampler, "start", 0)
        of_a_batch = getattr(self.batch_sampler, "batch_size", 1) * getattr(self.sampler, "num_replicas", 1)
        batches = super().__iter__()
        while True:
            if self.before_batch:
                self.before_batch()
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            self.samples += of_a_batch  # the last batch may differ, after which no position is asked for
            yield batch


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU's own memory; 0 for a device without one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def identity_collate(batch: Any) -> Any:
    """Return what an `ArrayDataset` gives, which is a batch already."""
    return batch
