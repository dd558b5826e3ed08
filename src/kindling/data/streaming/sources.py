"""The samples to prepare: images of a folder, or the samples of any other data module."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule
from torch import Tensor

from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.streaming.image_source import ImageSource
from kindling.data.streaming.sample_source import SampleSource


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

    def metadata(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return what the manifest says about the samples that are not broken, by split."""


def source_of(data: LightningDataModule, size: int | None, shorter_side: int | None, arguments: str) -> Source:
    """Return the samples of a data module; see `ImageSource` and `SampleSource` for the arguments.

    Raises:
        ValueError: If a size is given and they are no images.
    """
    if isinstance(data, ImageFolderDataModule):
        return ImageSource(data, size, shorter_side)
    if size or shorter_side:
        option = "--size" if size else "--shorter_side"
        raise ValueError(f"{option} resizes images of a folder; {type(data).__name__} has other samples")
    return SampleSource(data, arguments)
