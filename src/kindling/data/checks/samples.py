"""Samples of any data module, reduced to what is compared."""

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kindling.data.array_types import Floats
from kindling.utils.trees import tree_leaves

Layout = tuple[tuple[str, tuple[int, ...]], ...]  # type and shape of each part of a sample


class Sample(NamedTuple):
    """A sample, reduced to what is compared."""

    digest: bytes  # equal for samples with equal values
    layout: Layout


@dataclass
class SampleTable:
    """All samples of a data module, in the same order in each attribute.

    Attributes:
        splits: Split of each sample, (N,).
        names: Row, file or index of each sample, for people.
        inputs: A value that is the same for equal inputs, (N,).
        targets: Class as an index, or number, (N,); or 1 for each class of a sample and 0 for the others, (N, classes);
            None if unknown.
        classes: Names of the classes; empty for regression or unknown targets.
        chance: How many other samples are expected to have the same inputs by chance, (N,); None if none are.
        features: Comparable numbers, (N, F); None if the samples have none.
    """

    splits: NDArray[np.object_]
    names: list[str]
    inputs: NDArray[Any]
    targets: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()
    chance: Floats | None = None
    features: Floats | None = None

    @cached_property
    def codes(self) -> NDArray[Any] | None:
        """A value that is the same for equal targets, (N,); None if they are unknown."""
        if self.targets is None or self.targets.ndim == 1:
            return self.targets
        return np.unique(self.targets, axis=0, return_inverse=True)[1].ravel()

    def label(self, row: int) -> str:
        """Return the name of the class or classes of a sample, or its number."""
        assert self.targets is not None
        if self.targets.ndim > 1:
            return ", ".join(np.array(self.classes)[self.targets[row] > 0]) or "none"
        return str(self.classes[self.targets[row]]) if self.classes else f"{self.targets[row]:g}"

    def place(self, row: int) -> str:
        """Return the name and the split of a sample."""
        return f"{self.names[row]} ({self.splits[row]})"


def samples_of(loader: Any, label: str) -> Iterator[Any]:
    """Yield the samples of a loader: those of its dataset that its sampler selects, or the rows of its batches."""
    if isinstance(loader, DataLoader) and loader.batch_sampler is not None:
        dataset: Any = loader.dataset
        if isinstance(dataset, IterableDataset):
            yield from dataset
        else:
            yield from (dataset[index] for indices in loader.batch_sampler for index in indices)
        return
    for batch in loader:
        leaves = tree_leaves(batch)
        sizes = {len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0 for leaf in leaves}
        assert len(sizes) == 1, (
            f"{label} cannot be compared: their loader has no dataset, and its batches are not tensors of equal length"
        )
        yield from ([leaf[row] for leaf in leaves] for row in range(sizes.pop()))


def samples_of_split(data: LightningDataModule, split: str) -> Iterator[Any]:
    """Yield the samples of the loader of a split; of a CombinedLoader, those of all its loaders."""
    loaders = getattr(data, f"{split}_dataloader")()
    for loader in tree_leaves(getattr(loaders, "iterables", loaders)):
        yield from samples_of(loader, f"{type(data).__name__}: the samples of {split}")


def summarize(sample: Any) -> Sample:
    """Return the digest and the layout of a sample."""
    digest, layout = hashlib.blake2b(digest_size=16), []
    for leaf in tree_leaves(sample):
        if isinstance(leaf, Tensor) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"):
            values = torch.as_tensor(leaf).detach().cpu()
            layout.append((str(values.dtype), tuple(values.shape)))
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            layout.append((type(leaf).__name__, ()))
            digest.update(pickle.dumps(leaf))
    digest.update(repr(layout).encode())
    return Sample(digest.digest(), tuple(layout))
