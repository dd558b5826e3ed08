"""The samples to prepare: images as their files, or the samples of any other data module."""

import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import default_collate

from kindling.data.checks.samples import summarize
from kindling.data.datamodule import SPLITS, BaseDataModule
from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.images.samples import Sample
from kindling.data.images.validation import find_oddities
from kindling.data.loading import ArrayDataset
from kindling.data.tables.datamodule import TableDataModule
from kindling.utils.inputs import decode_image, to_float
from kindling.utils.trees import tree_flatten, tree_leaves, tree_unflatten

logger = logging.getLogger(__name__)

HASHED = 100  # samples of a split that is not in memory
NUMBERS = np.typecodes["AllInteger"] + "?efdFD"  # NumPy's codes of the types that LitData stores


class Source(Protocol):
    """The samples to prepare, in splits.

    Attributes:
        kind: See `Manifest.kind`.
        origin: Where they come from.
        counts: Number of samples by split.
    """

    kind: str
    origin: str
    counts: dict[str, int]

    def digest(self) -> str:
        """Return a hash of the samples and their splits."""

    def sizes(self, split: str) -> Sequence[int]:
        """Return the approximate size of each sample of a split in bytes."""

    def read(self, split: str, index: int) -> tuple[Any, Tensor, Tensor | None]:
        """Return the input and the target of a sample; of an image, also its variance and mean, (2, C).

        Raises:
            Exception: If the sample is broken.
        """

    def name(self, split: str, index: int) -> str:
        """Return the name of a sample for messages."""

    def facts(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return what the manifest says about the samples that are not broken, by split."""


class ImageSource:
    """Images of an `ImageFolderDataModule`: their files as they are, or pixels.

    Args:
        data: The data module.
        size: Height and width of the pixels to store; None to store the files.
    """

    kind = "images"

    def __init__(self, data: ImageFolderDataModule, size: int | None) -> None:
        self.data, self.size, self.origin = data, size, data.origin
        data.image_size = size or data.image_size
        data.skip_broken = True
        data.prepare_data()
        self.samples = {split: [each for each in data._samples if each.split == split] for split in SPLITS}
        self.counts = {split: len(samples) for split, samples in self.samples.items() if samples}
        self.targets = {split: data._encode(self.samples[split]) for split in self.counts}
        self.shape, self.levels = data.input_shape, data.fitted["levels"]

    def digest(self) -> str:
        """Return a hash of the images, their labels and splits."""
        digests = self.data._images.digests
        samples = [(*sample, digests[sample.file].hex()) for sample in chain(*self.samples.values())]
        return sha256(repr((samples, self.data.fitted)).encode()).hexdigest()

    def sizes(self, split: str) -> Sequence[int]:
        """Return the size of each image of a split in bytes."""
        if self.size:
            return [3 * self.size**2] * self.counts[split]
        return [Path(self.data.data_dir, sample.file).stat().st_size for sample in self.samples[split]]

    def read(self, split: str, index: int) -> tuple[Any, Tensor, Tensor | None]:
        """Return the file or the pixels of an image, its target, and the variance and mean of its channels, (2, 3)."""
        content = Path(self.data.data_dir, self.name(split, index)).read_bytes()
        pixels = decode_image(content, self.shape, levels=self.levels)
        moments = torch.stack(torch.var_mean(to_float(pixels), (1, 2), correction=0))
        return pixels if self.size else content, self.targets[split][index], moments

    def name(self, split: str, index: int) -> str:
        """Return the path of an image relative to the folder."""
        return self.samples[split][index].file

    def facts(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return what the manifest says about images; warn about classes without images and about copies."""
        data = self.data
        usable: list[Sample] = [self.samples[split][index] for split, indices in kept.items() for index in indices]
        classes = data._images.check_classes(usable)
        for line in find_oddities(usable, [data._images.digests[each.file] for each in usable], classes, data.task):
            logger.warning(line)
        return {
            "task": data.task,
            "input_shape": self.shape,
            "class_names": () if data.task == "regression" else data.class_names,
            "fitted": {"task": "classification", **data.fitted},
            "names": ({"name": self.name("test", index)} for index in kept.get("test", ())),
        }


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
            with suppress(Exception):  # datasets raise all kinds of errors
                return self.read(split, index)[:2]
        raise ValueError(f"{self.origin} has no usable {split} samples")

    def sizes(self, split: str) -> Sequence[int]:
        """Return the size of each sample of a split in bytes, as if all had that of the first."""
        leaves = tree_leaves(self._first(split))
        size = sum(
            leaf.nbytes if isinstance(leaf, Tensor | np.ndarray) else len(bytes(str(leaf), "utf-8")) for leaf in leaves
        )
        return [max(size, 1)] * self.counts[split]

    def read(self, split: str, index: int) -> tuple[Any, Tensor, Tensor | None]:
        """Return the input and the target of a sample, with random transforms drawn by its index."""
        seed = index + 1
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the generator that transforms use)
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

    def facts(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return what the manifest says about samples."""
        data: Any = self.data
        known = {name: getattr(data, name, None) for name in ("task", "input_shape", "class_names", "mean", "std")}
        facts = {name: value for name, value in known.items() if value is not None}
        if isinstance(data, BaseDataModule):
            facts["fitted"] = {"classes": [*facts.get("class_names", ())], **data.fitted}
        if isinstance(data, TableDataModule) and "test" in kept:
            rows, keys = np.asarray(data.tested_rows()).tolist(), data.keys("tested")
            facts["names"] = (
                {
                    "name": rows[index],
                    "keys": {name: key[index] for name, key in keys.items()},
                    "row": data.describe(index),
                }
                for index in kept["test"]
            )
        return facts


def source_of(data: LightningDataModule, size: int | None, arguments: str) -> Source:
    """Return the samples of a data module; see `ImageSource` and `SampleSource` for the arguments.

    Raises:
        ValueError: If `size` is given and they are no images.
    """
    if isinstance(data, ImageFolderDataModule):
        return ImageSource(data, size)
    if size is not None:
        raise ValueError(f"--size resizes images of a folder; {type(data).__name__} has other samples")
    return SampleSource(data, arguments)


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
