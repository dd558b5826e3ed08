"""The classes that an option takes, and messages about invalid class names."""

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse._typehints import get_all_subclass_paths

from kindling.utils.errors import UsageError
from kindling.utils.plugins import ENGINE, LOADED, describe_import_error
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
BASES |= {"MetricsModule", "PhasedModel", "ClassificationDataModule", "LearnedTargets", "AugmentedImages", "Averaging"}
BASES |= {"Optimizer", "LRScheduler", "Callback", "Logger"}


def describe_unknown(key: str, name: str) -> str:
    """Return one line about a name, or path, that is not one of the classes that an option takes."""
    noun, nouns = NOUNS.get(key, ("class", "a class that can be used here"))
    module = name.rpartition(".")[0]
    if name in BASES:
        return f"{name} is a base class: choose a subclass"
    if not module or not all(part.isidentifier() for part in name.split(".")):
        known = [path.rpartition(".")[2] for path in class_paths(key)]
        choices = ": add custom classes with --plugin FILE"
        if len(known) <= MAX_CHOICES:
            choices = f": choose from {join_names(known)}"
        return f"there is no {noun} {shorten(name, 60)}{_suggest_class(name, key) or choices}"
    if found := loaded_class(name):
        advice = f"{name} is a base class: choose a subclass with --{key} NAME"
        return advice if is_base(found) else f"{name} is not {nouns}"
    package = name.partition(".")[0]
    if package in sys.modules or importlib.util.find_spec(package):
        missing = _missing_module(module)
        what = f"module {shorten(missing, 60)}" if missing else f"class {shorten(name, 60)}"
        return f"there is no {what}{_suggest_class(name, key)}"
    return f"there is no module {package} for {name}: add --plugin {package}.py, or install the package that has it"


def _suggest_class(name: str, key: str) -> str:
    """Return a hint with the class that an option takes whose name is most similar; empty if none is.

    For a path, only classes in the same package are similar. Those of plug-ins may be in modules that are not imported.
    """
    package, _, short = name.rpartition(".")
    top = f"{package.partition('.')[0]}." if package else ""
    hidden = [path for path in source_classes() if loaded_class(path) is None]
    known = {path.rpartition(".")[2]: path for path in [*hidden, *class_paths(key)] if path.startswith(top)}
    near = nearest(short, known)
    if not near:
        return ""
    return f": did you mean {known[near] if package or known[near] in hidden else near}?"


def source_classes() -> list[str]:
    """Return the paths of all public derived classes in the packages of the plug-ins, without importing any module."""
    packages = {plugin.package for plugin in LOADED.values()}
    folders = [(package, folder) for package in packages for folder in getattr(sys.modules[package], "__path__", ())]
    return [
        f"{'.'.join([package, *module.parts])}.{name}".replace(".__init__.", ".")
        for package, folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        if all(map(str.isidentifier, (module := path.relative_to(folder).with_suffix("")).parts))
        for name in _derived_classes(path)
    ]


def _derived_classes(path: Path) -> Iterator[str]:
    """Yield the names of the public classes with a base class in a file; none if it is not valid Python."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for node in body:
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_"):
            yield node.name


def _missing_module(module: str) -> str:
    """Return the first package or module of a dotted path that does not exist; "" if all exist.

    Raises:
        UsageError: If a module exists, but importing it fails.
    """
    try:
        import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            return missing
        raise UsageError(f"{module} can't be imported: {describe_import_error(error, module)}") from error
    return ""


def class_arguments(cls: type) -> list[str]:
    """Return the names of the arguments of a class, including inherited ones."""
    added: list[str] = ArgumentParser(add_help=False).add_class_arguments(cls, fail_untyped=False)
    return added


def replacement_hint(message: str, model: str) -> str:
    """Return how to set an option, or a loss, that only another model takes; the message is about such an option."""
    option = re.match(r"(?:\w+ has no option )?model\.(\w+)", message)
    paths = [path for path in class_paths("model") if path.rpartition(".")[2] == model.rpartition(".")[2]]
    if option is None or not paths:
        return ""
    cls: type = resolve_name(paths[0])
    own, hints = class_arguments(cls), []
    for attribute, targets in (("regressor", "regression targets"), ("multilabel_classifier", "multi-label targets")):
        other = getattr(cls, attribute, None)
        is_shared = option[1] in own and option[1] != "loss_function"  # of which each task has its own
        if other is not None and not is_shared and option[1] in class_arguments(other):
            hints.append(f"; for {targets}, add --model {other.__name__}")
    is_transfer = option[1] not in own and option[1] in class_arguments(resolve_name("kindling.TransferClassifier"))
    if cls.__name__.startswith("CNN") and is_transfer:
        hints.append("; for transfer learning, use --config images_transfer")
    return "".join(hints)


def class_paths(key: str) -> list[str]:
    """Return the paths of the classes that an option takes; callbacks and loggers for an option of the Trainer."""
    from lightning.pytorch import Callback, LightningDataModule, LightningModule  # takes seconds to import
    from lightning.pytorch.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from kindling.training import Averaging

    kinds = {"model": LightningModule, "data": LightningDataModule, "averaging": Averaging}
    kinds |= {"model.optimizer": Optimizer, "model.lr_scheduler": LRScheduler}
    return choosable_paths(kinds.get(key, Callback | Logger))


def choosable_paths(kind: Any) -> list[str]:
    """Return the class paths that an option takes, given its type, without base classes."""
    # jsonargparse has no public function: https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
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
