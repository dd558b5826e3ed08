"""One line for a mistake on the command line, in place of the parser's many."""

import difflib
import re
from collections.abc import Iterable

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from kindling.data import ClassificationDataModule
from kindling.models import Classifier

BASES = (Classifier, ClassificationDataModule, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Callback, Logger)


class UsageError(Exception):
    """A command line or configuration that can't be understood."""


def one_line(message: str, defaults: Namespace) -> str:
    """Says what jsonargparse's message means: the key, what is wrong with it, the nearest name that would do.

    Args:
        message: The message of its ArgumentError.
        defaults: The parser's defaults, which tell the names of its options.
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if found := re.search(r"nrecognized arguments: (--)?([\w.]+)", message):
        return f"there is no option --{found[2]}{did_you_mean(found[2], defaults.keys(branches=True), '--')}"
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        owner = re.findall(r"(?:class_path '|class_path=')([\w.]+)'", message)
        names = class_arguments(owner[-1]) if owner else defaults.keys(branches=True)
        where = f"{key}.{found[1]}" if key else found[1]
        return f"{owner[-1].rsplit('.')[-1] if owner else 'kindling'} has no option {where}{did_you_mean(found[1], names)}"
    if found := re.search(r"Expected a dot import path string: (\S+)|Expected a path but (\S+) either", message):
        name = found[1] or found[2]
        return f"{key}: there is no {name}{did_you_mean(name, class_names())}"
    if found := re.search(r"Expected an? (.+?)\. Got value: (.*)", message):
        return f"{key}: {found[2]} is not {readable(found[1])}"
    if found := re.search(r"Key \"([^\"]+)\" is required|option '?([\w.]+)'? is required", message):
        return f"{found[1] or found[2]} is missing"
    return f"{key}: " * bool(key) + " ".join(re.sub(r'Parser key "[^"]+":', "", message).split())


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Names the nearest known name, where one is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {prefix}{near[0]}?" if near else ""


def class_arguments(class_path: str) -> list[str]:
    """The names of a class's arguments, inherited ones included."""
    module, name = class_path.rsplit(".", 1)
    cls = getattr(__import__(module, fromlist=[name]), name)
    return [argument.removeprefix("it.") for argument in ArgumentParser().add_class_arguments(cls, "it", fail_untyped=False)]


def class_names() -> list[str]:
    """The names of all models, data modules, optimizers, schedulers, callbacks and loggers."""
    found, names = list(BASES), []
    while found:
        cls = found.pop()
        names.append(cls.__name__)
        found += cls.__subclasses__()
    return names


def readable(kind: str) -> str:
    """A type as jsonargparse prints it, in fewer signs."""
    return re.sub(r"<class '([\w.]+)'>", r"\1", kind)
