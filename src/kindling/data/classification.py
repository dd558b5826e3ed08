"""Base class of the data modules for classification."""

from functools import cached_property
from typing import ClassVar, Literal

from kindling.data.datamodule import BaseDataModule


class ClassificationDataModule(BaseDataModule):
    """Base class of data modules for classification: a subclass also sets `num_classes` and `class_names`."""

    task: ClassVar[Literal["classification"]] = "classification"
    num_classes: int
    class_names: tuple[str, ...]

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training samples per class.

        Raises:
            ValueError: If the training dataset does not expose its targets.
        """
        return count_classes(self, getattr(self, "num_classes", 0))


def count_classes(data: BaseDataModule, num_classes: int) -> tuple[int, ...]:
    """Return the number of training samples per class.

    Raises:
        ValueError: If the training dataset does not expose its targets.
    """
    targets = data.training_targets
    if targets is None:
        raise ValueError(f"{type(data.train).__name__} needs an attribute `targets` with the class of each sample")
    return tuple(targets.bincount(minlength=num_classes).tolist())
