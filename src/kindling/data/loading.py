"""Samples in memory, indexed a whole batch at a time, and a loader that can resume in the middle of an epoch."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler
from typing_extensions import override

Batch = tuple[Tensor, Tensor]


class Streamed(Protocol):
    """Inputs that are made as they are asked for, like a tensor (N, ...) indexed by a tensor (n,)."""

    def __getitem__(self, index: Tensor) -> Tensor: ...


class ArrayDataset(Dataset[Batch]):
    """Samples kept as two tensors and indexed a whole batch at a time.

    Args:
        inputs: The samples, shape (N, ...): images as uint8, features as float32. Or what reads them from a disk.
        labels: Their classes, shape (N,), int64.
    """

    def __init__(self, inputs: Tensor | Streamed, labels: Tensor) -> None:
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


class EpochSampler(DistributedSampler[int]):
    """Shuffles an epoch by seed and epoch alone, and can leave out the samples that were trained on already.

    Processes take turns in one common order, so an epoch can continue with another number of them.

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
        return iter(left[self.rank :: self.num_replicas])


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


class ResumableLoader(DataLoader[Batch]):
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
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.samples = getattr(self.sampler, "start", 0)
        batches = super().__iter__()
        while True:
            if self.before_batch:
                self.before_batch()
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            self.samples += len(batch[1]) * getattr(self.sampler, "num_replicas", 1)
            yield batch


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU's own memory; 0 for a device without one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def as_is(batch: Any) -> Batch:
    """What the dataset gives is a batch already."""
    whole: Batch = batch
    return whole
