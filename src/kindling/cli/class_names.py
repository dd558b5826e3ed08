"""The classes that an option takes, and what is wrong with a name that is none of theirs."""

import importlib.util
import inspect
import sys
from pkgutil import resolve_name

from kindling.utils.text import join_names, shorten, suggest

# What a class of each option is called, by itself and after a verb.
NOUNS = {
    "model": ("model", "a model"),
    "data": ("data source", "a data source"),
    "averaging": ("averaging method", "an averaging method such as EMA"),
    "model.optimizer": ("optimizer", "an optimizer"),
    "model.lr_scheduler": ("learning rate schedule", "a learning rate schedule"),
}
FEW = 5  # classes, all of which a message can name


def describe_unknown(key: str, name: str) -> str:
    """Return one line about a name that is not a class that an option takes.

    Args:
        key: The option.
        name: Short name, or class path.
    """
    noun, nouns = NOUNS.get(key, ("class", "a class that can be used here"))
    module, _, last = name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        known = [candidate for candidate in class_names(key) if candidate != name]
        choices = (
            f": choose from {join_names(known)}" if len(known) <= FEW else ": --plugin FILE adds classes of your own"
        )
        return f"there is no {noun} {shorten(name, 60)}{suggest(name, known) or choices}"
    if found := getattr(sys.modules.get(module), last, None):
        return f"{name} is a base class: name a class derived from it" if _is_base(found) else f"{name} is not {nouns}"
    package = name.partition(".")[0]
    if package in sys.modules or importlib.util.find_spec(package):
        return f"there is no class {shorten(name, 60)}"
    return f"there is no module {package} for {name}: add --plugin {package}.py, or install the package that has it"


def class_arguments(class_path: str) -> list[str]:
    """Return the names of the arguments of a class, inherited ones included."""
    from jsonargparse import ArgumentParser  # commands that name no classes start without it

    added = ArgumentParser().add_class_arguments(resolve_name(class_path), "it", fail_untyped=False)
    return [argument.removeprefix("it.") for argument in added]


def class_names(key: str) -> list[str]:
    """Return the names of the classes that an option takes."""
    names: list[str] = []
    classes: list[type] = []
    for base in _bases(key):
        classes += base.__subclasses__()
    while classes:
        cls = classes.pop()
        if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls:  # else nobody can name it
            names.append(cls.__name__)
        classes += cls.__subclasses__()
    return names


def _is_base(found: object) -> bool:
    return inspect.isabstract(found) or found in _bases("model") + _bases("data")


def _bases(key: str) -> tuple[type, ...]:
    """Return the base classes of what an option takes; of callbacks and loggers for other options."""
    import torch  # takes seconds, which a command that names no classes is spared
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
