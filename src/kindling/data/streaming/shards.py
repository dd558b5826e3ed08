"""Datasets of samples in shards, read on demand and shuffled within windows of shards."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import default_collate, get_worker_info
from typing_extensions import override

from kindling.data.loading import ArrayDataset, Batch
from kindling.data.streaming.manifest import PreparedSplit, StoredFile
from kindling.data.streaming.store import FileStore
from kindling.utils.inputs import Levels, decode_image, fit_image
from kindling.utils.optional import require_extra

MAX_OPEN = 64  # shards that a process keeps open


class ShardInputs:
    """Inputs in shards, indexed by a tensor (n,) like a tensor (N, ...).

    Args:
        store: The files.
        split: The split.
        image_shape: Shape of an image as the model receives it, (C, H, W); None for other samples.
        levels: The values of 16-bit images to scale to 0 and 255.
    """

    def __init__(
        self, store: FileStore, split: PreparedSplit, image_shape: tuple[int, ...] | None, levels: Levels = None
    ) -> None:
        self.store, self.shards, self.image_shape, self.levels = store, split.shards, image_shape, levels
        self.starts = np.cumsum([0, *(shard.samples for shard in split.shards)])  # of each shard, and the end
        self._files: dict[int, tuple[BinaryIO, list[int]]] = {}  # by shard, see `_open`; the latest is last
        self._owner = 0  # process that opened them
        self.encoding = store.manifest.encoding
        self._loader: Any = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        rows = torch.arange(len(self))[index].tolist()
        if self._owner != os.getpid():  # a forked process must not move the positions in the files of its parent
            self._files, self._owner = {}, os.getpid()
        numbers = self.shards_of(rows)
        touched = [*dict.fromkeys(numbers)]
        for number in touched:
            is_open = number in self._files
            self._files[number] = self._files.pop(number) if is_open else self._open(self.shards[number])
        contents = self.store.read_within(self.shards[touched[-1]], lambda: [*map(self._read, numbers, rows)])
        while len(self._files) > MAX_OPEN:
            self._files.pop(next(iter(self._files)))[0].close()
        return default_collate([*map(self._decode, contents)])

    def shards_of(self, rows: Sequence[int]) -> list[int]:
        """Return the number of the shard of each row."""
        numbers: list[int] = (np.searchsorted(self.starts, rows, side="right") - 1).tolist()
        return numbers

    def _open(self, shard: StoredFile) -> tuple[BinaryIO, list[int]]:
        """Return the open file, and where each sample begins; then where the last one ends."""
        file = self.store.open(shard)

        def read_offsets() -> list[int]:
            samples = int(np.frombuffer(file.read(4), np.uint32)[0])
            offsets: list[int] = np.frombuffer(file.read(4 * (samples + 1)), np.uint32).tolist()
            return offsets

        return file, self.store.read_within(shard, read_offsets)

    def _read(self, number: int, row: int) -> bytearray:
        file, offsets = self._files[number]
        place = row - int(self.starts[number])
        content = bytearray(offsets[place + 1] - offsets[place])  # torch warns about bytes, which it could change
        file.seek(offsets[place])
        file.readinto(content)  # type: ignore[attr-defined]
        return content

    def _decode(self, content: bytearray) -> Any:
        """Return the input of an encoded sample."""
        if self._loader is None:
            self._loader = sample_loader(self.encoding)
        value = self._loader.deserialize(content)[0]
        if self.image_shape is None:
            return value
        if isinstance(value, Tensor):  # stored pixels
            if value.shape == self.image_shape:
                return value
            return fit_image(Image.fromarray(value.permute(1, 2, 0).numpy()), self.image_shape)
        return decode_image(bytes(value), self.image_shape, levels=self.levels)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}, "_owner": 0, "_loader": None}


class ShardDataset(ArrayDataset):
    """Samples in shards, which are shuffled within windows of shards, so that a process reads few at a time.

    Args:
        inputs: The inputs.
        labels: The targets, (N, ...).
        window: Number of shards that are shuffled together; 0 if the samples are read in order.
        seed: Seed of the order.
    """

    has_epoch_keys = True

    def __init__(self, inputs: ShardInputs, labels: Tensor, window: int = 0, seed: int = 0) -> None:
        super().__init__(inputs, labels)
        self.stored = inputs  # a model may replace `inputs` by features
        self.window, self.seed = window, seed
        self._prefetched = -1, -1  # epoch, and window in its order

    @override
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        epoch, rows = indices[0] // len(self), [key % len(self) for key in indices]
        self._prefetch(epoch, rows)
        index = torch.tensor(rows)
        return self.inputs[index], self.labels[index]

    def shuffle(self, generator: Generator) -> Tensor:
        """Return the order of the samples in an epoch, (N,)."""
        starts, order = self.stored.starts.tolist(), []
        for window in self._windows(generator):
            rows = torch.cat([torch.arange(starts[shard], starts[shard + 1]) for shard in window.tolist()])
            order.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(order)

    def _windows(self, generator: Generator) -> tuple[Tensor, ...]:
        """Return the numbers of the shards in each window; the first draw of the generator of an epoch."""
        return torch.split(torch.randperm(len(self.stored.shards), generator=generator), self.window)

    def _prefetch(self, epoch: int, rows: Sequence[int]) -> None:
        """Start to fetch the shards that follow the current ones."""
        if self.stored.store.cache is None or self.inputs is not self.stored:
            return
        current, shards = self.stored.shards_of(rows[:1])[0], self.stored.shards
        following = [current + 1] if current + 1 < len(shards) else []
        if self.window:
            windows = self._windows(torch.Generator().manual_seed(self.seed + epoch))
            number = next(number for number, window in enumerate(windows) if current in window)
            current, following = number, [shard for window in windows[number : number + 2] for shard in window.tolist()]
        if self._prefetched != (epoch, current):
            self._prefetched = epoch, current
            worker = get_worker_info()
            first = worker.id % max(len(following), 1) if worker else 0  # workers begin with different shards
            self.stored.store.prefetch(shards[number] for number in following[first:] + following[:first])


def sample_loader(encoding: Mapping[str, Any]) -> Any:
    """Return the part of LitData that decodes samples, see `Manifest.encoding`."""
    require_extra("stream", "litdata")
    from litdata.streaming.item_loader import PyTreeLoader
    from litdata.streaming.serializers import _get_serializers
    from litdata.utilities._pytree import treespec_loads

    loader = PyTreeLoader()
    loader.setup({**encoding, "data_spec": treespec_loads(encoding["data_spec"])}, [], _get_serializers(None))
    return loader
