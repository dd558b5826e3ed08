"""Replace a classifier by its model for the targets of the data, such as numbers."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from kindling.cli.class_names import class_arguments
from kindling.models.data_arguments import TARGETS, check_task
from kindling.models.task import BaseTask
from kindling.utils.console import say
from kindling.utils.errors import UsageError
from kindling.utils.text import join_names

# By the task of the data, the attribute of a classifier that names the model to build instead.
REPLACEMENTS: dict[object, str] = {"regression": "regressor", "multilabel": "multilabel_classifier"}


def model_for_data(kind: type[LightningModule], data: LightningDataModule | None) -> type[LightningModule]:
    """Return the class of the model for the targets of a data module: another one if a classifier names it.

    Raises:
        ValueError: If the model predicts something else than the targets.
    """
    if not issubclass(kind, BaseTask) or kind.task is None:
        return kind
    attribute = REPLACEMENTS.get(getattr(data, "task", None), "")
    model: type[BaseTask] | None = vars(kind).get(attribute)  # its own: a subclass has another network
    if model is None:
        check_task(kind, data)
        return kind
    return model


def dropped_arguments(
    kind: type[LightningModule], model: type[LightningModule], arguments: Mapping[str, Any], typed: Collection[str]
) -> set[str]:
    """Print that a classifier is replaced, and return the names of its arguments that the other model does not get.

    Raises:
        UsageError: If the command line sets an argument that the other model lacks.
    """
    task = model.task if issubclass(model, BaseTask) else None
    targets = f"the targets are {TARGETS[task][0]}" if task else ""
    defaults = {name: default_of(kind, name) for name in arguments}
    lacking = arguments.keys() - {*class_arguments(model)}
    unused = [name for name in arguments if name in lacking and arguments[name] not in (None, defaults[name])]
    if refused := [name for name in unused if f"model.{name}" in typed]:
        options = " ".join(f"--model.{name}" for name in refused)
        raise UsageError(
            f"{targets}, so {model.__name__} replaces {kind.__name__}, and it has no {join_names(refused)}: remove "
            f"{options}"
        )
    ignored = f"; {join_names(unused)} has no effect" if unused else ""
    say(f"model: {model.__name__} instead of {kind.__name__}, because {targets}{ignored}")
    # A default of the classifier gives way to that of the other model, unless it is on the command line.
    free = [name for name in arguments if f"model.{name}" not in typed]
    return lacking | {name for name in free if arguments[name] == defaults[name] != default_of(model, name)}


def default_of(cls: type, name: str) -> Any:
    """Return the default of a constructor argument, looked up along the MRO; `Parameter.empty` if there is none."""
    signatures = (inspect.signature(vars(one)["__init__"]).parameters for one in cls.__mro__ if "__init__" in vars(one))
    return next((found[name].default for found in signatures if name in found), inspect.Parameter.empty)
