"""Folders of images: scan, check, split and decode them; no other kind of data."""

from kindling.data.images.datamodule import ImageFolderDataModule

__all__ = ["ImageFolderDataModule"]
