"""Datasets of samples in shards, read on demand and shuffled within windows of shards."""

import os
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import default_collate, get_worker_info
from typing_extensions import override

from kindling.data.datasets import ArrayDataset, Batch
from kindling.data.images.pixel_cache import PixelCache
from kindling.data.streaming.encoding import sample_loader
from kindling.data.streaming.manifest import PreparedSplit
from kindling.data.streaming.store import ATTEMPTS, FileStore
from kindling.data.streaming.timeouts import ReportProgress, within
from kindling.utils.inputs import Levels, decode_image, fit_image


class OpenShard:
    """An open shard, as LitData writes it; an OSError tells that it is too short."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        # Where each sample begins, then where the last one ends, (n + 1,). Not a `cached_property`, which until Python
        # 3.12 has one lock for all shards: a read without an answer would hold it forever.
        self._offsets: Any = None

    def read(self, place: int) -> bytearray:
        """Return an encoded sample."""
        if self._offsets is None:
            number = int(np.frombuffer(self._read(0, 4), np.uint32)[0])
            self._offsets = np.frombuffer(self._read(4, 4 * (number + 1)), np.uint32)
        start, end = self._offsets[place : place + 2].tolist()
        return self._read(start, end - start)

    def _read(self, start: int, size: int) -> bytearray:
        content = bytearray(size)  # torch warns about bytes, which it could change
        self.file.seek(start)
        view = memoryview(content)
        while view:
            if not (count := self.file.readinto(view)):  # type: ignore[attr-defined]
                raise OSError("it ends too early")
            view = view[count:]
        return content


class ShardInputs:
    """Inputs in shards, indexed by a tensor (n,) like a tensor (N, ...).

    Args:
        store: The files.
        split: The split.
        image_shape: Shape of an image as the model receives it, (C, H, W); None for other samples.
        levels: The values of 16-bit images to scale to 0 and 255.
        window: Number of shards that are shuffled together; two windows are open at most.
        pixels: Where decoded images are kept.
    """

    def __init__(
        self,
        store: FileStore,
        split: PreparedSplit,
        image_shape: tuple[int, ...] | None,
        levels: Levels = None,
        window: int = 0,
        pixels: PixelCache | None = None,
    ) -> None:
        self.pixels = pixels
        self.store, self.shards, self.image_shape, self.levels = store, split.shards, image_shape, levels
        self.starts = np.cumsum([0, *(shard.samples for shard in split.shards)])  # of each shard, and the end
        self.max_open = 2 * max(window, 1)  # a file that is removed from a cache needs its space until it is closed
        self._files: dict[int, OpenShard] = {}  # by number; the latest is last
        self._owner = 0  # process that opened them
        self.encoding = store.manifest.encoding
        self._loader: Any = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Tensor | slice) -> Any:
        rows = [*range(len(self))[index]] if isinstance(index, slice) else index.tolist()
        return self.pixels.read(rows, self._read) if self.pixels else default_collate(self._read(rows))

    def is_decoded(self, number: int) -> bool:
        """Return whether all images of a shard are kept, so that it is not needed."""
        return self.pixels is not None and self.pixels.has(*self.starts[number : number + 2].tolist())

    def _read(self, rows: Sequence[int]) -> list[Any]:
        """Return the inputs in rows of shards."""
        if self._owner != os.getpid():  # a forked process must not move the positions in the files of its parent
            self._files, self._owner = {}, os.getpid()
        numbers = self.shards_of(rows)
        by_shard: dict[int, list[int]] = {}
        for row, number in zip(rows, numbers, strict=True):
            by_shard.setdefault(number, []).append(row)
        inputs: dict[int, Any] = {}  # by row
        for start in range(0, len(by_shard), self.max_open):
            part = dict(islice(by_shard.items(), start, start + self.max_open))
            for row, (number, content) in self._read_shards(part).items():
                inputs[row] = self._decode(number, content)
        return [inputs[row] for row in rows]

    def shards_of(self, rows: Sequence[int]) -> list[int]:
        """Return the number of the shard of each row."""
        numbers: list[int] = (np.searchsorted(self.starts, rows, side="right") - 1).tolist()
        return numbers

    def _read_shards(self, rows: Mapping[int, list[int]]) -> dict[int, tuple[int, bytearray]]:
        """Return the shard and the encoded sample of each row, given the rows of each shard.

        A shard whose reading fails is opened and verified again.
        """
        for attempts_left in reversed(range(ATTEMPTS)):
            opened = {number: self._open(number) for number in rows}
            begun = [
                next(iter(rows))
            ]  # the last one is being read; an earlier attempt, which may still read, has its own

            def read(
                report_progress: ReportProgress,
                opened: Mapping[int, OpenShard] = opened,
                begun: list[int] = begun,
            ) -> dict[int, Any]:
                found = {}
                for number, shard in opened.items():
                    begun.append(number)
                    for row in rows[number]:
                        report_progress()
                        found[row] = number, shard.read(row - int(self.starts[number]))
                return found

            try:
                return within(self.store.timeout, read)  # one thread for all shards: starting it takes 50 µs
            except Exception as error:
                failed = self.shards[begun[-1]]
                if not attempts_left:
                    raise self.store.unreadable(failed.file, error) from error
                for number in opened:  # not closed: a thread that got no answer may still read them
                    del self._files[number]
                self.store.forget(failed)
        raise AssertionError

    def _open(self, number: int) -> OpenShard:
        """Return an open shard, which becomes the latest."""
        if number in self._files:
            self._files[number] = self._files.pop(number)
        else:
            if len(self._files) >= self.max_open:
                self._files.pop(next(iter(self._files))).file.close()
            self._files[number] = OpenShard(self.store.open(self.shards[number]))
        return self._files[number]

    def _decode(self, number: int, content: bytearray) -> Any:
        """Return the input of an encoded sample of a shard."""
        if self._loader is None:
            self._loader = sample_loader(self.encoding)
        try:
            value = self._loader.deserialize(content)[0]
        except Exception as error:  # LitData's serializers raise all kinds of errors
            raise self.store.damaged(self.shards[number], "its samples are not what kindling.json describes") from error
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

    has_epoch_keys = is_shuffled = True

    def __init__(self, inputs: ShardInputs, labels: Tensor, window: int = 0, seed: int = 0) -> None:
        super().__init__(inputs, labels)
        self.stored = inputs  # a model may replace `inputs` by features
        self.window, self.seed = window, seed
        self._prefetched = -1, -1  # epoch, and window in its order
        self._order: tuple[int, list[list[int]], dict[int, int]] = -1, [], {}  # see `_epoch_windows`

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
            rows = torch.cat([torch.arange(starts[shard], starts[shard + 1]) for shard in window])
            order.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(order)

    def _windows(self, generator: Generator) -> list[list[int]]:
        """Return the numbers of the shards in each window; the first draw of the generator of an epoch."""
        if not self.window:
            return [[shard] for shard in range(len(self.stored.shards))]
        shards = torch.randperm(len(self.stored.shards), generator=generator)
        return [part.tolist() for part in torch.split(shards, self.window)]

    def _epoch_windows(self, epoch: int) -> tuple[list[list[int]], dict[int, int]]:
        """Return the shards in each window of an epoch, and the window of each shard; computed once per epoch."""
        if self._order[0] != epoch:
            windows = self._windows(torch.Generator().manual_seed(self.seed + epoch))
            window_of = {shard: number for number, window in enumerate(windows) for shard in window}
            self._order = epoch, windows, window_of
        return self._order[1:]

    def _prefetch(self, epoch: int, rows: Sequence[int]) -> None:
        """Start to fetch the shards of the current window and the next one, once per window."""
        if self.stored.store.cache is None or self.inputs is not self.stored:
            return
        windows, window_of = self._epoch_windows(epoch)
        current = window_of[self.stored.shards_of(rows[:1])[0]]
        if self._prefetched == (epoch, current):
            return
        self._prefetched = epoch, current
        shards = [*chain.from_iterable(windows[current : current + 2])]
        worker = get_worker_info()
        first = worker.id % len(shards) if worker else 0  # workers begin with different shards
        wanted = [number for number in shards[first:] + shards[:first] if not self.stored.is_decoded(number)]
        self.stored.store.prefetch(self.stored.shards[number] for number in wanted)
