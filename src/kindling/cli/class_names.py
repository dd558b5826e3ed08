"""The classes that an option takes, and messages about invalid class names."""

import importlib.util
import inspect
import re
import sys
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from kindling.cli.plugin_source import source_classes
from kindling.utils.errors import UsageError
from kindling.utils.plugins import ENGINE, describe_import_error
from kindling.utils.text import join_names, nearest, shorten

# What the classes of an option are called, without and with an article.
NOUNS = {
    "model": ("model", "a model"),
    "data": ("data source", "a data source"),
    "averaging": ("averaging method", "an averaging method such as EMA"),
    "model.optimizer": ("optimizer", "an optimizer"),
    "model.lr_scheduler": ("learning rate schedule", "a learning rate schedule"),
}
MAX_CHOICES = 5  # classes to list in a message
# Base classes that are not abstract for Python.
BASES = {"LightningModule", "LightningDataModule", "BaseTask", "ClassificationTask", "RegressionTask", "BaseDataModule"}
BASES |= {"NetworkModule", "MultiLabelTask", "MLPModel", "CNNModel", "TransferModel", "EnsembleModel", "TabMModel"}
BASES |= {"ClassificationDataModule", "AugmentedImages", "Averaging", "Optimizer", "LRScheduler", "Callback", "Logger"}


def describe_unknown(key: str, name: str) -> str:
    """Return one line about a name that is not one of the classes that an option takes.

    Args:
        key: Name of the option.
        name: Short name or class path.
    """
    noun, nouns = NOUNS.get(key, ("class", "a class that can be used here"))
    module = name.rpartition(".")[0]
    if name in BASES:
        return f"{name} is a base class: choose a subclass"
    if not module or not all(part.isidentifier() for part in name.split(".")):
        known = [candidate for candidate in class_names(key) if candidate != name]
        choices = (
            f": choose from {join_names(known)}"
            if len(known) <= MAX_CHOICES
            else ": add custom classes with --plugin FILE"
        )
        near = _suggest_class(name, dict(zip(known, known, strict=True)))
        return f"there is no {noun} {shorten(name, 60)}{near or choices}"
    if found := loaded_class(name):
        advice = f"{name} is a base class: choose a subclass with --{key} NAME"
        return advice if is_base(found) else f"{name} is not {nouns}"
    package = name.partition(".")[0]
    if package in sys.modules or importlib.util.find_spec(package):
        missing = _missing_module(module)
        what = f"module {shorten(missing, 60)}" if missing else f"class {shorten(name, 60)}"
        return f"there is no {what}{_suggest_class(name, _classes_beside(name, key))}"
    return f"there is no module {package} for {name}: add --plugin {package}.py, or install the package that has it"


def _suggest_class(name: str, known: dict[str, str]) -> str:
    """Return a hint with the class whose name is most similar; empty if none is.

    Args:
        name: Short name or class path.
        known: How to refer to each class, by its name; those of plug-in packages that are not imported are added.
    """
    package, _, short = name.rpartition(".")
    top = package.partition(".")[0]
    paths = [path for path in source_classes() if loaded_class(path) is None and path.startswith(f"{top}." * bool(top))]
    known = {path.rpartition(".")[2]: path for path in paths} | known
    near = nearest(short, known)
    return f": did you mean {known[near]}?" if near else ""


def _classes_beside(class_path: str, key: str) -> dict[str, str]:
    """Return the path of each class that an option takes in the same package, by its name; same module first."""
    module = class_path.rpartition(".")[0]
    top = f"{module.partition('.')[0]}."
    classes = [cls for cls in subclasses(key) if f"{cls.__module__}.".startswith(top)]
    found = {cls.__name__: f"{cls.__module__}.{cls.__name__}" for cls in classes}
    names = [cls.__name__ for cls in classes if loaded_class(f"{module}.{cls.__name__}") is cls]
    return found | {name: f"{module}.{name}" for name in names}


def _missing_module(module: str) -> str:
    """Return the first package or module in a path that does not exist; empty if all do.

    Raises:
        UsageError: If one can't be imported, as the parser has just tried.
    """
    try:
        import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            return missing
        raise UsageError(f"{module} can't be imported: {describe_import_error(error, module)}") from error
    return ""


def class_arguments(class_path: str) -> list[str]:
    """Return the names of the arguments of a class, including inherited ones."""
    from jsonargparse import ArgumentParser  # loaded only when needed

    added = ArgumentParser().add_class_arguments(resolve_name(class_path), "it", fail_untyped=False)
    return [argument.removeprefix("it.") for argument in added]


def replacement_hint(message: str, model: str) -> str:
    """Return how to set an option, or a loss, that only another model for such data takes, for an error message.

    Args:
        message: Message about an option of the model.
        model: Name or path of the model's class.
    """
    option = re.match(r"(?:\w+ has no option )?model\.(\w+)", message)
    classes = [cls for cls in subclasses("model") if cls.__name__ == model.rpartition(".")[2]]
    if option is None or not classes:
        return ""
    own, hints = _arguments(classes[0]), []
    for attribute, targets in (("regressor", "numbers as targets"), ("multilabel_classifier", "multi-label targets")):
        other = getattr(classes[0], attribute, None)
        is_shared = option[1] in own and option[1] != "loss_function"  # of which each task has its own
        if other is not None and not is_shared and option[1] in _arguments(other):
            hints.append(f"; for {targets}, add --model {other.__name__}")
    transfer = [cls for cls in subclasses("model") if cls.__name__ == "TransferClassifier"]
    if classes[0].__name__.startswith("CNN") and option[1] not in own and option[1] in _arguments(transfer[0]):
        hints.append("; for transfer learning, use --config images_transfer")
    return "".join(hints)


def _arguments(cls: type) -> list[str]:
    return class_arguments(f"{cls.__module__}.{cls.__name__}")


def class_names(key: str) -> list[str]:
    """Return the names of the classes that an option takes."""
    return [cls.__name__ for cls in subclasses(key)]


def subclasses(key: str) -> list[type]:
    """Return the classes that an option takes."""
    found: list[type] = []
    classes: list[type] = []
    for base in _bases(key):
        classes += base.__subclasses__()
    while classes:
        cls = classes.pop()
        if loaded_class(f"{cls.__module__}.{cls.__name__}") is cls and not is_base(cls):
            found.append(cls)
        classes += cls.__subclasses__()
    return found


def choosable_paths(kind: Any) -> list[str]:
    """Return the class paths that an option takes, given its type, without base classes."""
    # jsonargparse has no public function: https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
    from jsonargparse._typehints import get_all_subclass_paths  # takes 0.2 s to import

    found = {path: loaded_class(path) for path in get_all_subclass_paths(kind, closed_types=False)}
    return [path for path, cls in found.items() if cls is not None and not is_base(cls)]


def loaded_class(class_path: str) -> object:
    """Return a class by its path; None if its module has not been imported, or lacks it (created at run time)."""
    module, _, name = class_path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def is_base(found: object) -> bool:
    """Return whether a class is a base class: an abstract one, or one of those in `BASES`."""
    package = getattr(found, "__module__", "").partition(".")[0]
    is_known = package in ENGINE and getattr(found, "__name__", "") in BASES
    return inspect.isabstract(found) or is_known


def _bases(key: str) -> tuple[type, ...]:
    """Return the base classes of an option; callbacks and loggers for options of the Trainer."""
    import torch  # imported only when needed: takes seconds
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.loggers import Logger

    from kindling.training import Averaging

    bases: dict[str, tuple[type, ...]] = {
        "model": (LightningModule,),
        "data": (LightningDataModule,),
        "averaging": (Averaging,),
        "model.optimizer": (torch.optim.Optimizer,),
        "model.lr_scheduler": (torch.optim.lr_scheduler.LRScheduler,),
    }
    return bases.get(key, (Callback, Logger))
