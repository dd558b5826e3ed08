"""Data sources. A data module named here can be chosen with `--data NAME`."""

from kindling.data.datamodule import ClassificationDataModule
from kindling.data.images import ImageFolderDataModule
from kindling.data.mnist import MNISTDataModule
from kindling.data.synthetic import SyntheticDataModule

__all__ = ["ClassificationDataModule", "ImageFolderDataModule", "MNISTDataModule", "SyntheticDataModule"]
