"""Data modules, and how their samples are read, split, augmented and batched; no models and no training.

A data module named here can be chosen with `--data NAME`.
"""

from kindling.data.classification import ClassificationDataModule
from kindling.data.datamodule import BaseDataModule
from kindling.data.digits import DigitsDataModule
from kindling.data.images import ImageFolderDataModule
from kindling.data.mnist import MNISTDataModule
from kindling.data.streaming import StreamingDataModule
from kindling.data.synthetic import SyntheticDataModule
from kindling.data.tables import TableDataModule

__all__ = [
    "BaseDataModule",
    "ClassificationDataModule",
    "DigitsDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "StreamingDataModule",
    "SyntheticDataModule",
    "TableDataModule",
]
