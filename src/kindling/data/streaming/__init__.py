"""Data larger than memory: prepare shards of samples, and stream them from a disk, a mount or an object store."""

from kindling.data.streaming.datamodule import StreamingDataModule

__all__ = ["StreamingDataModule"]
