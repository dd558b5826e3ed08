"""Hyperparameters as plain values, so that checkpoints load without running code."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"  # creates a module from its hyperparameters
Factory = dict[str, Any]  # {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError if an argument is out of range."""
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"`{name}` must be {limits}, got {value}")


def make_hparams_plain(module: LightningModule | LightningDataModule) -> None:
    """Convert the hyperparameters of a model or data module to plain values and add the name of its class.

    The command line does this too; here it is for checkpoints that are saved in a notebook.
    """
    for name, value in module.hparams.items():
        if isinstance(value, PurePath):
            module.hparams[name] = str(value)
        elif callable(value):
            module.hparams[name] = to_class_path(value)
        elif isinstance(value, dict) and "class_path" in value:
            module.hparams[name] = {"init_args": {}} | value  # the parser leaves out the arguments if there are none
    cls = type(module)
    if cls.__module__ != "__main__" and "." not in cls.__qualname__:  # others can't be imported elsewhere
        module.hparams.setdefault("_class_path", f"{cls.__module__}.{cls.__qualname__}")
        module.hparams.setdefault("_instantiator", INSTANTIATOR)


def record_arguments(module: LightningModule | LightningDataModule, cls: type, arguments: dict[str, Any]) -> None:
    """Store the class and all constructor arguments, also those that the module did not save, in the hyperparameters.

    Raises:
        ValueError: If a hyperparameter is not a plain value.
    """
    path = {"_class_path": f"{cls.__module__}.{cls.__qualname__}", "_instantiator": INSTANTIATOR}
    missing = {name: value for name, value in (arguments | path).items() if name not in module.hparams}
    if missing:
        module.save_hyperparameters(missing)
    for name, value in module.hparams.items():
        if not is_plain(value):
            raise ValueError(
                f"{cls.__name__} has a hyperparameter {name} of type {type(value).__name__}, which a checkpoint can't "
                f"store: call save_hyperparameters(ignore=['{name}'])"
            )


def is_plain(value: Any) -> bool:
    """Return whether a value loads from a checkpoint without running code."""
    match value:
        case list() | tuple():
            return all(map(is_plain, value))
        case dict():
            return all(is_plain(key) and is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, complex, str, bytes, Tensor)


def to_class_path(function: Callable[..., Any]) -> Factory:
    """Return the class path and arguments, defaults included, of a class or a `functools.partial` of one.

    Raises:
        ValueError: If it is neither, such as a lambda.
    """
    parts, arguments = (function,), {}
    if isinstance(function, partial):  # the class is the function, or as jsonargparse builds it, an argument
        parts, arguments = (function.func, *function.args), function.keywords
    cls = next((part for part in parts if isinstance(part, type)), None)
    if cls is None:
        raise ValueError(f"a checkpoint can't store {function!r}: pass functools.partial(torch.optim.SGD, lr=0.1)")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    init_args = {
        name: list(value) if isinstance(value, tuple) else value for name, value in (defaults | arguments).items()
    }
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}


def is_same_factory(one: Factory | None, other: Factory | None) -> bool:
    """Return whether two factories are equal; torch.optim.SGD is also torch.optim.sgd.SGD."""
    if one is None or other is None:
        return one is other
    names = [factory["class_path"].rsplit(".", 1)[-1] for factory in (one, other)]
    return bool(names[0] == names[1] and one["init_args"] == other["init_args"])
