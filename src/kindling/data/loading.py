"""Samples in memory, indexed a whole batch at a time, and a loader that can go on mid-epoch."""

import copy
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
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


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader whose next epoch begins after `skip` batches: those that an interrupted run has had already.

    It knows how many seconds it took to give its batches, `seconds`.
    """

    skip = 0
    seconds = 0.0

    @override
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        skip, self.skip = self.skip, 0
        batches = itertools.islice(super().__iter__(), skip, None)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU's own memory; 0 for a device without one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def as_is(batch: Any) -> Batch:
    """What the dataset gives is a batch already."""
    whole: Batch = batch
    return whole
