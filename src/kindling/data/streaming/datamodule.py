"""Data module for a data set that `kindling prepare` has written."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from kindling.data.datamodule import Split
from kindling.data.datasets import ArrayDataset
from kindling.data.disk_cache import DiskCache
from kindling.data.fitted_state import FittedState
from kindling.data.images.augmented import AugmentedImages
from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.images.pixel_cache import open_pixel_cache
from kindling.data.streaming.copying import is_remote
from kindling.data.streaming.manifest import Manifest, PreparedSplit
from kindling.data.streaming.names import SampleNames
from kindling.data.streaming.shards import ShardDataset, ShardInputs
from kindling.data.streaming.store import FileStore
from kindling.data.tables.files import read_table
from kindling.data.tables.rows import encode_rows, find_numeric_features
from kindling.utils.hyperparameters import check_range

MAX_STATISTIC_ROWS = 100_000  # rows of a table that a model may look at before training


class StreamingDataModule(AugmentedImages):
    """A data set that `kindling prepare` has written: images, rows of a table or samples of any other data module.

    Samples are read when they are needed, so the set may be larger than the memory. Each shard is verified by its
    checksum when it is first read. Shards are shuffled, and samples within windows of `window` shards; an epoch resumes
    exactly with any number of processes and workers.

    Args:
        path: Folder, mount, or address of an object store, such as s3://bucket/shards.
        cache_dir: Folder for copies of shards and for decoded images, by default the user's cache folder. Without it,
            the shards of a folder are read in place.
        cache_gb: Most space for both in GB; files of other data sets that were not used for longest are removed.
        window: Number of shards to shuffle together.
        timeout: Seconds without progress after which an attempt to read has failed; three are made.
        image_size: Height and width in pixels to resize images to; by default the size chosen by `kindling prepare`.
        predict: A folder of images, one image, or a file of rows to predict; by default the test split.
        batch_size: See `BaseDataModule`.
        eval_batch_size: Samples per batch in validation, test and prediction.
        num_workers: Worker processes that read and decode samples; by default its share of the cores for image files,
            and none for other samples.
        min_batches: See `BaseDataModule`.
        **augmentation: See `AugmentedImages`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
        window: int = 8,
        timeout: float = 60.0,
        image_size: int | None = None,
        predict: str | Path | None = None,
        batch_size: int | Literal["auto"] = 64,
        eval_batch_size: int = 128,
        num_workers: int | None = None,
        min_batches: int = 1,
        **augmentation: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers or 0,
            min_batches=min_batches,
            val_split=0,  # set here and so not an option: the splits are those of the shards
            split_seed=42,
            **augmentation,
        )
        for name, value, low in (("cache_gb", cache_gb, 0), ("timeout", timeout, 0.001), ("window", window, 1)):
            check_range(name, value, low)
        if image_size is not None:
            check_range("image_size", image_size, 1)
        self.path, self.cache_gb, self.window, self.timeout = str(path), cache_gb, window, timeout
        self.cache_dir = cache_dir
        self.image_size, self.predict = image_size, predict
        self._chooses_workers = num_workers is None

    @cached_property
    def store(self) -> FileStore:
        """The files of the data set."""
        copies = bool(self.cache_dir) or is_remote(self.path)
        store = FileStore(self.path, self._cache if copies else None, self.timeout)
        largest = max(shard.bytes for split in store.manifest.splits.values() for shard in split.shards)
        needed = 2 * min(self.window, max(len(split.shards) for split in store.manifest.splits.values())) * largest
        if copies and needed > self.cache_gb * 1e9:
            raise ValueError(
                f"--data.cache_gb {self.cache_gb:g} is too small for two windows of shards: set it to "
                f"{needed / 1e9:.2g} or more, or --data.window to less than {self.window}"
            )
        self._reserved_bytes = needed if copies else 0
        return store

    @cached_property
    def _cache(self) -> DiskCache:
        return DiskCache(self.cache_dir, self.cache_gb * 1e9)

    @property
    def manifest(self) -> Manifest:
        """Description of the data set."""
        return self.store.manifest

    @property
    def task(self) -> str | None:
        """Task of the targets; None if the data module that they come from has none."""
        return self.manifest.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; regression targets have no such attribute."""
        if not self.manifest.class_names:
            raise AttributeError(f"{self.path} has no classes")
        return self.manifest.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes; regression targets have no such attribute."""
        return len(self.class_names)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training samples per class, if each has one."""
        if not self.manifest.class_counts:
            raise AttributeError(f"class_counts needs targets with one class per sample, got {self.task}")
        return self.manifest.class_counts

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of an input as the model receives it."""
        shape = self.fitted_state["input_shape"]
        if shape is None:
            raise AttributeError(f"the inputs of {self.path} have no shape")
        return (shape[0], self.image_size, self.image_size) if self.image_size and self._has_images else tuple(shape)

    @property
    def numeric_features(self) -> tuple[int, ...]:
        """Indices of the features of a table that are numbers; other samples have no such attribute."""
        if not self._is_table:
            raise AttributeError(f"numeric_features is defined only for tables, and {self.path} is not one")
        return find_numeric_features(self.fitted_state["columns"])

    @property
    @override
    def training_inputs(self) -> Tensor | None:
        """Of a table, at most `MAX_STATISTIC_ROWS` training rows, (N, F); else None."""
        if not self._is_table:
            return None
        self._read_training()
        inputs: Tensor = self.train.inputs[:MAX_STATISTIC_ROWS]  # in random order
        return inputs

    @property
    @override
    def fitted_state(self) -> FittedState:
        if self.fitted:  # new samples are predicted without the shards
            return self.fitted
        found, shape = self.manifest, self.manifest.input_shape
        return found.fitted | {"digest": found.digest, "kind": found.kind, "input_shape": shape and [*shape]}

    @property
    def _has_images(self) -> bool:
        return bool(self.fitted_state["kind"] == "images")

    @property
    def _is_table(self) -> bool:
        return bool(self.fitted_state["kind"] == "rows")

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.manifest.mean), torch.tensor(self.manifest.std)

    @override
    def load_training(self) -> tuple[ShardDataset, ShardDataset]:
        before, self.fitted = self.fitted, {}
        self.fitted = self.fitted_state
        if before:
            self.load_state_dict(before)
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        val = self._dataset("val")  # first, so that a cache that is too small has all of it
        return self._dataset("train", self.window, seed), val

    @override
    def load(self, split: Split) -> ShardDataset:
        if self.fitted.get("digest", self.manifest.digest) != self.manifest.digest:
            raise ValueError(
                f"{self.path} has other samples or splits than those of the checkpoint, so training samples could "
                "be tested: set --data.path to the set that it was trained on"
            )
        return self._dataset(split)

    @property
    @override
    def has_test_split(self) -> bool:
        return "test" in self.manifest.splits

    @override
    def load_predict(self) -> Any:
        if self.predict is None:
            return super().load_predict()
        if self._is_table:
            encoded = encode_rows(read_table(self.predict), self.fitted_state["columns"], self.predict)
            return ArrayDataset(torch.from_numpy(encoded), torch.zeros(len(encoded), dtype=torch.int64))
        if not self._has_images:
            raise ValueError("--data.predict takes images and rows of tables only: predict these samples from Python")
        size = self.image_size or self.fitted_state["image_size"]
        images = ImageFolderDataModule(self.path, image_size=size, predict=self.predict)
        images.fitted = self.fitted_state
        found = images.load_predict()
        self._predicted, self.unreadable = images.predicted_rows(), images.unreadable
        self.num_workers = max(self.num_workers, images.num_workers)
        return found

    @property
    def row_header(self) -> str:  # type: ignore[override]
        """The kind of the names of the samples."""
        return "file" if self._has_images else "row"

    @override
    def predicted_rows(self) -> Sequence[object]:
        if self.predict is None:
            return self.tested_rows()
        return self._predicted if self._has_images else super().predicted_rows()

    @override
    def tested_rows(self) -> Sequence[object]:
        return self._names.names or super().tested_rows()

    @override
    def keys(self, of: Literal["tested", "predicted"]) -> Mapping[str, Sequence[object]]:
        return {} if self.predict else self._names.keys

    @override
    def sample_details(self, row: int) -> dict[str, object]:
        if self._has_images:
            return {"file": self.tested_rows()[row]}
        return self._names.values(row) or super().sample_details(row)

    @cached_property
    def _names(self) -> SampleNames:
        return SampleNames(self.store)

    def _dataset(self, name: str, window: int = 0, seed: int = 0) -> ShardDataset:
        if name not in self.manifest.splits:
            raise ValueError(f"{self.path} has no {name} samples: prepare a source that has some")
        split: PreparedSplit = self.manifest.splits[name]
        if self._chooses_workers and self._has_images and self.manifest.size is None:
            self.num_workers = self.cores
        shape = self.input_shape if self._has_images else None
        levels, pixels = self.manifest.fitted.get("levels"), None
        if shape and self.manifest.size is None and name != "test":  # which is read once
            pixels = open_pixel_cache(
                self._cache, self.manifest.digest, name, split.samples, shape, levels, self._reserved_bytes
            )
        inputs = ShardInputs(self.store, split, shape, levels, window, pixels)
        targets = torch.from_numpy(np.load(self.store.path(split.targets)))
        return ShardDataset(inputs, targets, window, seed)
