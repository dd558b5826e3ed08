"""Folders of images: found, checked, split and decoded. Nothing here serves other data."""

from kindling.data.images.datamodule import ImageFolderDataModule

__all__ = ["ImageFolderDataModule"]
