"""Base classes of the data modules for classification."""

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


class LearnedTargets(BaseDataModule):
    """Base class of the data modules that learn from their data what to predict; see `fitted`."""

    @property
    def task(self) -> Literal["classification", "regression", "multilabel"]:
        """Task of the targets: "classification", "regression" or "multilabel"."""
        state = self.fitted_state
        default = "classification" if state.get("target") is None else "regression"
        task: Literal["classification", "regression", "multilabel"] = state.get("task", default)
        return task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, sorted; regression targets have no such attribute."""
        if self.task == "regression":
            raise AttributeError(f"{self.origin} has regression targets, which have no classes")
        return tuple(self.fitted_state["classes"])

    @property
    def num_classes(self) -> int:
        """Number of classes; regression targets have no such attribute."""
        return len(self.class_names)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training samples per class, if each has one."""
        if self.task != "classification":
            raise AttributeError(f"class_counts needs targets with one class per sample, got {self.task}")
        return count_classes(self, self.num_classes)


def count_classes(data: BaseDataModule, num_classes: int) -> tuple[int, ...]:
    """Return the number of training samples per class.

    Raises:
        ValueError: If the training dataset does not expose its targets.
    """
    targets = data.training_targets
    if targets is None:
        raise ValueError(f"{type(data.train).__name__} needs an attribute `targets` with the class of each sample")
    return tuple(targets.bincount(minlength=num_classes).tolist())
