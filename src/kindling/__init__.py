"""Kindling: a PyTorch Lightning project template."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kindling.data import ClassificationDataModule, MNISTDataModule, SyntheticDataModule
    from kindling.models import Classifier, CNNClassifier, MLPClassifier

__version__ = "0.1.0"

__all__ = [
    "CNNClassifier",
    "ClassificationDataModule",
    "Classifier",
    "MLPClassifier",
    "MNISTDataModule",
    "SyntheticDataModule",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: `kindling --help` answers in 0.1 s, importing torch and lightning takes seconds.
    if name not in __all__:
        raise AttributeError(f"module 'kindling' has no attribute {name!r}")
    return getattr(import_module("kindling.data" if name.endswith("DataModule") else "kindling.models"), name)
