"""One line for a mistake on the command line, in place of the parser's many."""

import argparse
import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from kindling.wording import brief, did_you_mean

# What jsonargparse says where a class is wanted and the value is not even a text.
NO_CLASS = re.compile(
    "unhashable type|is not iterable|Not a valid subclass|bytes-like object|Expected a dot import path string: *$",
    re.MULTILINE,
)


class UsageError(Exception):
    """A command line or configuration that can't be understood."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints end in one line."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        message = message.replace("the following arguments are required:", "missing:")
        raise UsageError(one_line(message, [option.lstrip("-") for option in self._option_string_actions]))


def one_line(message: str, options: Iterable[str] = (), typed: Sequence[str] = ()) -> str:
    """Says what jsonargparse's message means: the key, what is wrong with it, and the nearest name that would do.

    Args:
        message: A message of jsonargparse; any other is only put on one line.
        options: The names of all options, without the two dashes.
        typed: The command line, to tell which of the options below one that takes a class lacks its value.
    """
    options = list(options)
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    key = key or "".join(re.findall(r"^--([\w.]+): ", message))
    if reason := misplaced_value(key, message, typed):
        return reason
    owners = re.findall(r"class_path[= ]'([\w.]+)'", message)
    if found := re.search(r"unrecognized arguments: --([\w.+]+)|does not accept option '(.*)'", message):
        name = found[1] or found[2]
        group = name.split(".")[0]
        near = did_you_mean(name, options) or ("" if group in options else did_you_mean(group, options))
        return f"there is no option {name}{near}"
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        known = class_arguments(owners[-1]) if owners else options
        *path, name = ".".join(filter(None, [key, found[1]])).split(".")
        group = "".join(f"{part}." for part in path)
        near = did_you_mean(name, known, group)
        kind = owners[-1].rpartition(".")[2] if owners and len(path) == 1 else ""
        return f"{kind} has no option {group}{name}{near}" if kind else f"there is no option {group}{name}{near}"
    if found := re.search(r"Multiple subclasses with name (\w+)\. .*: (.+)\.$", message, re.MULTILINE):
        return f"{key}: several classes are called {found[1]}: give the full name of one, {found[2]}"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        if found[1] == "None":
            return f"{key}: null is not a value for it"
        known = [name for name in class_names(key.removesuffix(".help")) if name != found[1]]
        near = did_you_mean(found[1], known) or ": --plugin FILE adds classes of your own"
        return f"{key}: there is no {found[1]}{near}"
    if found := re.search(r"Expected (?:a path|an instantiatable class,) but (\S+) (?:is abstract|either)", message):
        return f"{key}: {_missing(found[1])}"
    if found := re.search(r"arguments are required: (.+)", message):
        names = ", ".join(f"{key}.{name}" if key else f"--{name.split('.', 1)[-1]}" for name in found[1].split(", "))
        return f"{names} must be given"
    if found := re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        if key and (kinds := expected(message)):
            return f"{key}: {found[1]} is not {' or '.join(kinds)}"
        if key and owners:
            return f"{key}: {_missing(owners[-1])}"
    if key and NO_CLASS.search(message):
        return f"{key}: expected the name of a class, or class_path and init_args"
    return re.sub(r"<class '([\w.]+)'>", r"\1", " ".join([f"{key}:"] * bool(key) + reasons(message)))


def misplaced_value(key: str, message: str, typed: Sequence[str] = ()) -> str:
    """Return one line about a value that is missing, superfluous or of the wrong kind; else an empty string."""
    if found := re.search(r"argument (?:-\w/)?--([\w.+]+): expected .*argument", message):
        return f"{_without_value(f'--{found[1]}', typed)} needs a value"
    if found := re.search(r"argument (?:-\w/)?--([\w.+]+): ignored explicit argument (.*)", message, re.DOTALL):
        return f"--{found[1]} takes no value, got {brief(found[2], 60)}"
    if found := re.search(r"unrecognized arguments: (?!--[\w.+])(.*)", message, re.DOTALL):
        return f"unexpected argument {brief(repr(found[1]), 60)}: options are typed as --NAME VALUE"
    if found := re.search(r"Unexpected config: (.*)", message, re.DOTALL):
        return f"config: {brief(found[1], 60)} holds no options: give a YAML file of them"
    if found := re.search(r"Unable to load config (.*)", message):
        return f"{key}: expected options such as --{key}.NAME VALUE, got {brief(found[1], 60)}"
    if found := re.search(r"(?:File does not exist|Path is not a file): '(.*)'", message):
        return f"{key}: there is no file {os.path.relpath(found[1])}"
    return ""


def _without_value(option: str, typed: Sequence[str]) -> str:
    """Return the typed option that lacks a value: argparse names --model where it is --model.dropout."""
    for name, value in zip(typed, [*typed[1:], "--"], strict=False):
        if re.fullmatch(rf"{re.escape(option)}(\.[\w.+]+)?", name) and value.startswith("--"):
            return name
    return option


def _missing(class_path: str) -> str:
    module = class_path.partition(".")[0]
    if module in sys.modules or importlib.util.find_spec(module):
        return f"there is no class {class_path}, or it can't be used here"
    return f"there is no module {module} for {class_path}: add --plugin {module}.py, or install the package that has it"


def without_worker(message: str) -> str:
    """Return the original message of an error in a data-loading process, which torch wraps in its traceback."""
    if not re.match(r"Caught \w+ in .+\.\nOriginal Traceback", message):
        return message
    return re.split(r"^[\w.]+(?:Error|Exception): ", message, flags=re.MULTILINE)[-1].strip()


def dead_worker(error: BaseException) -> str:
    """Return one line about a data-loading process that was killed, an empty string for any other error."""
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return "a data-loading process was killed, often for lack of memory: try a smaller --data.num_workers"
    return ""


def reasons(message: str) -> list[str]:
    """The lines of a message that give a reason of their own."""
    frames = (
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Problem with",
        "Expected a <class 'NoneType'>",
    )
    lines = [re.sub(r'Parser key "[^"]+":', "", line).strip(" -") for line in message.splitlines()]
    return [line for line in lines if line and not line.startswith(frames)]


def expected(message: str) -> list[str]:
    """The types and choices that would have been accepted, in plain words."""
    kinds = re.findall(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.*?\])", message)
    literals = [ast.literal_eval(kind.removeprefix("typing.Literal")) for kind in kinds if "Literal" in kind]
    choices = [choice for literal in literals for choice in literal]
    names = [kind.split("'")[1] for kind in kinds if "Literal" not in kind and "NoneType" not in kind]
    names = ["a list such as [1, 2]" if name in ("tuple", "list") else name for name in names]
    return [*names, *([f"one of {', '.join(map(str, choices))}"] if choices else [])]


def class_arguments(class_path: str) -> list[str]:
    """The names of a class's arguments, inherited ones included."""
    from jsonargparse import ArgumentParser  # commands that name no classes start without it

    module, name = class_path.rsplit(".", 1)
    cls = getattr(__import__(module, fromlist=[name]), name)
    added = ArgumentParser().add_class_arguments(cls, "it", fail_untyped=False)
    return [argument.removeprefix("it.") for argument in added]


def class_names(key: str) -> list[str]:
    """The names of the classes that an option takes."""
    names: list[str] = []
    classes = list(_bases(key))
    while classes:
        cls = classes.pop()
        if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls:  # else nobody can name it
            names.append(cls.__name__)
        classes += cls.__subclasses__()
    return names


def _bases(key: str) -> tuple[type, ...]:
    """What may be named by its class: in the options that take one, and in any other."""
    import torch  # takes seconds, which a command that names no classes is spared
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.loggers import Logger

    bases: dict[str, tuple[type, ...]] = {
        "model": (LightningModule,),
        "data": (LightningDataModule,),
        "model.optimizer": (torch.optim.Optimizer,),
        "model.lr_scheduler": (torch.optim.lr_scheduler.LRScheduler,),
    }
    return bases.get(key, (Callback, Logger))
