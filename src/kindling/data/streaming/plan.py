"""The plan of a preparation: which samples go into which shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kindling.data.datamodule import SPLITS
from kindling.data.streaming.sources import Source

MAX_SAMPLES = 2**20  # of a shard


@dataclass(frozen=True)
class ShardTask:
    """The samples of one shard."""

    split: str
    number: int  # of the shard in its split
    indices: Sequence[int]  # of the samples in the split

    @property
    def file(self) -> str:
        """Path of the shard, which LitData would choose too."""
        return f"{self.split}/chunk-0-{self.number}.bin"

    @property
    def record(self) -> str:
        """Name of the file about the finished shard."""
        return f"{self.split}-{self.number}"


def plan_shards(source: Source, shard_bytes: int, seed: int) -> list[ShardTask]:
    """Return the shards of all splits; the training samples are shuffled, as a source is often sorted by class."""
    tasks = []
    for split in [split for split in SPLITS if split in source.counts]:
        number, sizes = source.counts[split], source.sizes(split)
        order: Sequence[int] = range(number)
        if split == "train":
            order = torch.randperm(number, generator=torch.Generator().manual_seed(seed)).tolist()
        tasks += [ShardTask(split, k, part) for k, part in enumerate(_parts(order, sizes, shard_bytes))]
    return tasks


def _parts(order: Sequence[int], sizes: Sequence[int], limit: int) -> Iterator[Sequence[int]]:
    """Yield consecutive parts of an order whose samples have at most `limit` bytes together, or one sample."""
    start, total = 0, 0
    for place, index in enumerate(order):
        total += sizes[index]
        if place > start and (total > limit or place - start >= MAX_SAMPLES):
            yield order[start:place]
            start, total = place, sizes[index]
    yield order[start:]
