"""Checks of files and functions in a foreign checkpoint or config: only those on the command line are used.

`kindling.runs.untrusted_config` checks the classes.
"""

import importlib.util
import inspect
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import Any, get_args, get_type_hints

import yaml

from kindling.runs.untrusted_config import DOTTED, dotted_names, find_class, nested, texts
from kindling.utils.text import strip_control_characters

OWN_PACKAGE = "kindling."  # its classes import nothing by name, and annotate their files as paths
MAX_OPTIONS_LENGTH = 150  # characters of options in a message


def check_files(
    data: dict[str, Any], typed: Collection[str], run: Path, source: Path, known: Mapping[str, Any], command: str
) -> None:
    """Raise ValueError if a data source reads files other than those typed, in the run folder, defaults, or known.

    Known are the arguments in a checkpoint of this user; those in `data` come from the file `source`. Samples to
    predict are removed from them, and downloads are turned off.
    """
    arguments = data.setdefault("init_args", {})
    cls = find_class(data["class_path"])
    is_own = cls is not None and cls.__module__.startswith(OWN_PACKAGE)
    hints, defaults = _parameters(cls)
    arguments.pop("predict", None)
    if "download" in hints and known.get("download") is not True:
        arguments["download"] = False
    if is_own and command == "predict" and "predict" in typed:
        return  # no other file is read
    untrusted = {
        name: value
        for name, value in arguments.items()
        if name not in typed
        and _is_file(value, hints.get(name), is_own)
        and str(value) not in (str(defaults.get(name)), str(known.get(name)))
        and not _is_inside(value, run)
    }
    if untrusted:
        options = " ".join(f"--data.{name} {shlex.quote(str(value))}" for name, value in untrusted.items())
        if len(options) > MAX_OPTIONS_LENGTH:
            options = " ".join(f"--data.{name} PATH" for name in [*untrusted][:5])
        raise ValueError(
            f"{source} is from elsewhere, so the files in it are not read; add {strip_control_characters(options)}"
        )


def check_factories(hyper_parameters: dict[str, Any], source: Path) -> None:
    """Raise ValueError if the optimizer or scheduler of a checkpoint is a function, which would be called, or has one.

    To be called after `check_class_paths`.
    """
    from torch.optim import Optimizer  # torch takes seconds
    from torch.optim.lr_scheduler import LRScheduler

    for part, base in (("optimizer", Optimizer), ("lr_scheduler", LRScheduler)):
        factory = hyper_parameters.get(part)
        if factory is None:
            continue
        name = factory.get("class_path") if isinstance(factory, dict) else factory
        cls = find_class(name) if isinstance(factory, dict) else None
        if not (cls and issubclass(cls, base)):
            raise ValueError(
                f"{source} names {name} as its {part}, which is not a subclass of {base.__name__}: it was not run"
            )
        if function := next(dotted_names(factory.get("init_args")), None):
            raise ValueError(f"{source} names the function {function} in its {part}: it was not imported or run")


def check_functions(model: Mapping[str, Any], typed: Collection[str], source: Path) -> None:
    """Raise ValueError if an argument in the file `source` is a name that its class could import.

    Typed arguments and layers of torch are allowed.
    """
    for cls, arguments in _classes_in(model):
        if cls.startswith(OWN_PACKAGE):
            continue
        for name, value in arguments.items():
            if name in ("optimizer", "lr_scheduler", "class_names", "weights", *typed):
                continue
            for text in texts(value):
                if _is_importable(text) and not _is_layer(text):
                    raise ValueError(
                        f"{source} is from elsewhere and names {text} as {name} of its {cls.rpartition('.')[2]}: it "
                        "was not imported"
                    )


def typed_arguments(group: str, typed: Sequence[str], recipes: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of a group's arguments, model or data, on the command line or in its recipes."""
    names: set[str] = set()
    for option, following in zip_longest(typed, typed[1:], fillvalue=""):
        option, _, value = option.partition("=")
        if option.startswith(f"--{group}."):
            names.add(option.removeprefix(f"--{group}.").removeprefix("init_args.").partition(".")[0].rstrip("+"))
        elif option == f"--{group}":
            with suppress(yaml.YAMLError):
                names |= argument_names(yaml.safe_load(value or following))
    return names.union(*(argument_names(recipe.get(group)) for recipe in recipes))


def argument_names(group: Any) -> set[str]:
    """Return the names of the arguments in the config of a class, with or without `init_args`; empty for a name."""
    if not isinstance(group, dict):
        return set()
    return {*(group["init_args"] if isinstance(group.get("init_args"), dict) else group)}


def _parameters(cls: type | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the annotations and the defaults of the arguments of a class and its bases."""
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1] if cls else ()):
        with suppress(NameError, TypeError, ValueError):
            hints |= get_type_hints(base.__init__)  # type: ignore[misc]
        with suppress(TypeError, ValueError):
            defaults |= {name: each.default for name, each in inspect.signature(base).parameters.items()}
    return hints, defaults


def _is_file(value: Any, hint: Any, is_own: bool) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return False
    return _is_path(hint) or (not is_own and any(map(_looks_like_file, texts(value))))


def _is_path(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, PurePath | os.PathLike)) or any(map(_is_path, get_args(hint)))


def _looks_like_file(text: str) -> bool:
    path = Path(text)
    return path.is_absolute() or text.startswith("~") or ".." in path.parts or "://" in text or os.path.lexists(text)


def _is_inside(value: Any, run: Path) -> bool:
    """Return whether a path is in a run folder after following links."""
    return isinstance(value, str) and run.is_dir() and run.resolve() in Path(value).resolve().parents


def _classes_in(model: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each class in stored values with its arguments."""
    for item in nested(model):
        match item:
            case {"class_path": str(name)}:
                yield name, item.get("init_args") or {}
            case {"_class_path": str(name)}:
                yield name, {key: value for key, value in item.items() if not key.startswith("_")}
            case {"model": str(name), "arguments": dict(arguments)}:
                yield name, arguments


def _is_importable(text: str) -> bool:
    top = text.strip().partition(".")[0]
    if not DOTTED.fullmatch(text.strip()):
        return False
    with suppress(ImportError, ValueError):
        return importlib.util.find_spec(top) is not None
    return False


def _is_layer(text: str) -> bool:
    from torch import nn

    found = getattr(nn, text.strip().removeprefix("torch.nn."), None)
    return isinstance(found, type) and issubclass(found, nn.Module)
