"""Samples of any data module to prepare."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import default_collate

from kindling.data.checks.samples import summarize
from kindling.data.datamodule import SPLITS, BaseDataModule
from kindling.data.datasets import ArrayDataset, seed_generators
from kindling.data.tables.datamodule import TableDataModule
from kindling.utils.text import shorten
from kindling.utils.trees import tree_flatten, tree_leaves, tree_unflatten

HASHED = 100  # samples of a split that is not in memory
NUMBERS = np.typecodes["AllInteger"] + "?efdFD"  # NumPy's codes of the types that LitData stores


class SampleSource:
    """Samples of any data module: pairs of an input and a target, as its datasets return them.

    Args:
        data: The data module.
        arguments: Its class and arguments, which tell apart samples that are not in memory.

    Raises:
        ValueError: If it has no datasets of pairs.
    """

    def __init__(self, data: LightningDataModule, arguments: str) -> None:
        self.data, self.arguments = data, arguments
        self.kind = "rows" if isinstance(data, TableDataModule) else "samples"
        self.origin = data.origin if isinstance(data, BaseDataModule) else type(data).__name__
        data.prepare_data()
        data.setup("fit")
        has_test = data.has_test_split if isinstance(data, BaseDataModule) else is_overridden("test_dataloader", data)
        if has_test:
            data.setup("test")
        self.datasets = {split: _dataset(data, split) for split in SPLITS if split != "test" or has_test}
        self.datasets = {split: dataset for split, dataset in self.datasets.items() if len(dataset)}
        self.counts = {split: len(dataset) for split, dataset in self.datasets.items()}

    def digest(self) -> str:
        """Return a hash of the samples in memory; of others, of their number, some of them, and the arguments."""
        digest = sha256(repr(self.counts).encode())
        for split, dataset in self.datasets.items():
            if isinstance(dataset, ArrayDataset) and isinstance(dataset.inputs, Tensor):
                digest.update(summarize([dataset.inputs, dataset.labels]).digest)
                continue
            digest.update(self.arguments.encode())
            for index in np.unique(np.linspace(0, self.counts[split] - 1, HASHED, dtype=int)).tolist():
                with suppress(Exception):  # broken samples
                    digest.update(summarize(self.read(split, index)[:2]).digest)
        return digest.hexdigest()

    def _first(self, split: str) -> tuple[Any, Tensor]:
        """Return the first sample of a split that is not broken."""
        for index in range(self.counts[split]):
            try:
                return self.read(split, index)[:2]
            except Exception as error:  # datasets raise all kinds of errors
                reason = shorten(str(error) or type(error).__name__, 200)
        raise ValueError(f"{self.origin} has no usable {split} samples: {reason}")

    def sizes(self, split: str) -> Sequence[int]:
        """Return the size of each sample of a split in bytes, as if all had that of the first."""
        leaves = tree_leaves(self._first(split))
        size = sum(leaf.nbytes if isinstance(leaf, Tensor | np.ndarray) else len(str(leaf).encode()) for leaf in leaves)
        return [max(size, 1)] * self.counts[split]

    def read(self, split: str, index: int) -> tuple[Any, Tensor, Tensor | None]:
        """Return the input and the target of a sample, with random transforms drawn by its index."""
        seed_generators(index + 1)
        sample = self.datasets[split][index]
        if not (isinstance(sample, tuple | list) and len(sample) == 2):
            raise ValueError(
                f"{type(self.data).__name__} returns {type(sample).__name__}: make each sample (input, target)"
            )
        leaves, structure = tree_flatten(sample[0])
        return tree_unflatten([*map(_storable, leaves)], structure), torch.as_tensor(sample[1]).clone(), None

    def name(self, split: str, index: int) -> str:
        """Return the index of a sample."""
        return f"{split} sample {index}"

    def metadata(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return the fields of the manifest that describe samples."""
        data: Any = self.data
        known = {name: getattr(data, name, None) for name in ("task", "input_shape", "class_names", "mean", "std")}
        metadata = {name: value for name, value in known.items() if value is not None}
        if isinstance(data, BaseDataModule):
            metadata["fitted"] = {"classes": [*metadata.get("class_names", ())], **data.fitted}
        if isinstance(data, TableDataModule) and "test" in kept:
            rows, keys = np.asarray(data.tested_rows()).tolist(), data.keys("tested")
            metadata["names"] = (
                {
                    "name": rows[index],
                    "keys": {name: key[index] for name, key in keys.items()},
                    "row": data.sample_details(index),
                }
                for index in kept["test"]
            )
        return metadata


def _dataset(data: LightningDataModule, split: str) -> Any:
    """Return the dataset of a split, whose samples torch's `default_collate` must be able to combine."""
    name = type(data).__name__
    if isinstance(data, BaseDataModule):
        dataset = getattr(data, split)
        collate: Any = default_collate if isinstance(dataset, ArrayDataset) else data.collate
    else:
        loader = getattr(data, f"{split}_dataloader")()
        dataset, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"the {split} split of {name} has no dataset with a length to prepare")
    if collate not in (default_collate, BaseDataModule.collate):
        raise ValueError(f"{name} has its own `collate`, which shards don't keep: make samples that can be stacked")
    return dataset


def _storable(value: Any) -> Any:
    """Return a part of an input as LitData can store it.

    Raises:
        ValueError: If it is an array of anything but numbers.
    """
    if isinstance(value, Tensor):
        return value.clone()  # a view would be stored with all of its memory
    if not isinstance(value, np.ndarray | np.generic) or isinstance(value, str | bytes):
        return value
    if value.dtype.char not in NUMBERS:
        raise ValueError(f"an array of {value.dtype.name} can't be stored: make it numbers, or text of type str")
    array = np.asarray(value, value.dtype.newbyteorder("="))
    return array if array.ndim else torch.from_numpy(array)  # LitData would pickle an array without dimensions
