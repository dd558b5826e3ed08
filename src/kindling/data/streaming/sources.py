"""The samples to prepare: images of a folder, or the samples of any other data module."""

from lightning.pytorch import LightningDataModule

from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.streaming.image_source import ImageSource
from kindling.data.streaming.sample_source import SampleSource

Source = ImageSource | SampleSource


def source_of(data: LightningDataModule, size: int | None, shorter_side: int | None, arguments: str) -> Source:
    """Return the samples of a data module; see `ImageSource` and `SampleSource` for the arguments.

    Raises:
        ValueError: If a size is given and the samples are not images.
    """
    if isinstance(data, ImageFolderDataModule):
        return ImageSource(data, size, shorter_side)
    if size or shorter_side:
        option = "--size" if size else "--shorter_side"
        raise ValueError(f"{option} resizes images of a folder; {type(data).__name__} has other samples")
    return SampleSource(data, arguments)
