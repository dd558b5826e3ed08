"""Datasets: tensors indexed a whole batch at a time, and samples with reproducible random transforms."""

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, get_worker_info

Batch = tuple[Tensor, Tensor]

BATCH_SIZE = 256  # of `batches_of`


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
            seed_generators(seed)
        return self.dataset[key % len(self)]


def seed_generators(seed: int) -> None:
    """Seed the generators that transforms use."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


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


def batches_of(inputs: Any, rows: Tensor) -> Iterator[Any]:
    """Yield the inputs in some rows (n,) in batches, as lazy inputs may be larger than memory."""
    for part in torch.split(rows, BATCH_SIZE):
        yield inputs[part]


def free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes; 0 for any other device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
