"""The parts of a recipe as objects, without the parser of the command line, which takes a second."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from lightning.pytorch import Callback

from kindling import models
from kindling.cli.recipes import find_recipe
from kindling.cli.yaml_files import read_yaml
from kindling.models import BaseTask, schedules
from kindling.models.task import ADAM
from kindling.training import averaging
from kindling.training.best_checkpoint import best_checkpoint
from kindling.training.early_stopping import early_stopping
from kindling.utils.errors import UsageError
from kindling.utils.hyperparameters import Factory
from kindling.utils.text import suggest

MODULES = (models, torch.optim, schedules, torch.optim.lr_scheduler, averaging)  # where short names are looked up
TRAINER_DEFAULTS = {"max_epochs": 10}  # as in `kindling fit`


class Recipe:
    """A recipe for tables, given its name or path; ValueError is raised if it is not valid."""

    def __init__(self, name: str) -> None:
        try:
            self.options = read_yaml(Path(find_recipe(name)))
        except UsageError as error:
            raise ValueError(str(error)) from error
        if factory_of(self.options.get("data") or "")["class_path"].rpartition(".")[2] != "TableDataModule":
            raise ValueError(f"{name} is not a recipe for tables: its data must be a TableDataModule, as in table_mlp")

    @property
    def data(self) -> dict[str, Any]:
        """Arguments of the data module."""
        arguments: dict[str, Any] = factory_of(self.options["data"])["init_args"]
        return arguments

    @property
    def trainer(self) -> dict[str, Any]:
        """Arguments of the Trainer."""
        return {**TRAINER_DEFAULTS, **self.options.get("trainer", {})}

    def model(
        self, task: str, options: Mapping[str, Any], learning_rate: float | None
    ) -> tuple[type[BaseTask], dict[str, Any]]:
        """Return the class of the model for a task, and its arguments; that for numbers takes fewer than a classifier.

        `options` and `learning_rate` override those of the recipe; an unknown option is a ValueError.
        """
        spec = factory_of(self.options["model"])
        cls, arguments = resolve_name(spec["class_path"]), dict(spec["init_args"])
        if task == "regression" and (regressor := vars(cls).get("regressor")):
            cls, arguments = regressor, {name: arguments[name] for name in arguments if name in arguments_of(regressor)}
        known = arguments_of(cls)
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"{cls.__name__} has no option {unknown[0]}{suggest(unknown[0], known)}")
        arguments |= options
        for name in ("optimizer", "lr_scheduler"):
            if arguments.get(name):
                arguments[name] = factory_of(arguments[name])
        if learning_rate is not None:
            arguments.setdefault("optimizer", deepcopy(ADAM))["init_args"]["lr"] = learning_rate
        return cls, arguments

    def callbacks(self) -> list[Callback]:
        """Return the callbacks that the recipe configures: early stopping, the best checkpoint, averaged weights."""
        configured = [
            early_stopping(**self.options.get("early_stopping", {})),
            best_checkpoint(**self.options.get("checkpoint", {})),
        ]
        if spec := self.options.get("averaging"):
            factory = factory_of(spec)
            configured.append(resolve_name(factory["class_path"])(**factory["init_args"]))
        return configured


def factory_of(spec: str | Mapping[str, Any]) -> Factory:
    """Return a class in a recipe, by short name or path and with or without arguments, as path and arguments."""
    named: Mapping[str, Any] = {"class_path": spec} if isinstance(spec, str) else spec
    path = named["class_path"]
    if "." not in path:
        module = next((module for module in MODULES if hasattr(module, path)), None)
        path = f"{module.__name__}.{path}" if module else path
    return {"class_path": path, "init_args": dict(named.get("init_args") or {})}


def arguments_of(cls: type) -> list[str]:
    """Return the names of the constructor arguments of a class, including inherited ones."""
    return [name for base in cls.__mro__ if "__init__" in vars(base) for name in inspect.signature(base).parameters]
