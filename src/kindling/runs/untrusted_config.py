"""Checks of the configuration, classes and links of a run, which another user may have made.

A run folder from another user must not run code, write outside its folder or read other files.
`kindling.runs.untrusted_files` checks the files and functions that it names.
"""

import importlib.util
import json
import logging
import math
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from kindling.runs.folders import is_in_run, run_folder_of
from kindling.runs.signatures import is_own, is_own_here
from kindling.utils.plugins import LOADED, check_available
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

SAFE_TEXT = re.compile(r"[\w:.-]*")  # not a path
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # jsonargparse may import these
MAX_VALUES = 100_000  # of a configuration
SECTIONS = ("model", "data", "trainer", "checkpoint", "early_stopping")  # as a string, the path of a config file
CLASSES = ("logger", "callbacks", "plugins", "default_root_dir")  # Trainer options that take class names and paths
AVERAGING = [f"kindling.{package}.{name}" for package in ("training", "callbacks") for name in ("EMA", "SWA")]


def drop_unsafe(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the safe values of a configuration in a file from elsewhere, and log the names of the others."""
    safe, ignored = dict(config), []
    for name, value in config.items():
        if name == "trainer" and isinstance(value, dict):
            for key, item in value.items():
                if not _is_safe(item, key in CLASSES) or any(dotted_names(item)):
                    ignored.append(f"trainer.{key}")
            safe[name] = {key: item for key, item in value.items() if f"trainer.{key}" not in ignored}
        elif name == "averaging" and _is_averaging(value):
            continue  # needed to resume from the right weights
        elif not (isinstance(value, dict | None) if name in SECTIONS else _is_safe(value) and value not in (".", "..")):
            del safe[name]
            ignored.append(name)
    if ignored:
        logger.warning(f"{source} is from elsewhere: ignoring {join_names(ignored)}; add --config {source} to trust it")
    return safe


def _is_safe(value: Any, is_class: bool = False) -> bool:
    """Return whether a value contains neither a class nor a path."""
    match value:
        case str():
            return not is_class and bool(SAFE_TEXT.fullmatch(value))
        case list():
            return all(_is_safe(item, is_class) for item in value)
        case dict():
            return "class_path" not in value and all(_is_safe(item, is_class) for item in value.values())
    return True


def _is_averaging(value: Any) -> bool:
    """Return whether a value is one of Kindling's own averaging methods with safe arguments."""
    return isinstance(value, dict) and value.get("class_path") in AVERAGING and _is_safe(value.get("init_args"))


def check_class_paths(stored: Any, run: Path, what: str = "model", plugins: Mapping[str, str] | None = None) -> None:
    """Raise ValueError if stored classes come from the run folder or the standard library, or are not available.

    No class is imported. Messages say `what` the classes should be, and how to get their `plugins`, see
    `kindling.utils.plugins.sources`.
    """
    for name in class_paths(stored):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            raise ValueError(f"the checkpoint names the class {name}, which is not a {what}")
        if top in LOADED and LOADED[top].is_named:
            continue
        if top.isidentifier() and (spec := importlib.util.find_spec(top)) and _comes_with(spec, run):
            raise ValueError(
                f"refusing to import class {name}: its code is in the run folder {run}; pass --plugin if you trust it"
            )
        check_available(name, plugins or {})


def _comes_with(spec: ModuleSpec, run: Path) -> bool:
    """Return whether a package is inside a run folder or contains it: any folder can be imported as a package."""
    places = {Path(place).resolve() for place in (*(spec.submodule_search_locations or []), spec.origin or "") if place}
    run = run.resolve()
    if any(place == run or run in place.parents for place in places):
        return True
    around = places.intersection(run.parents)  # an installed package may include a checkpoint
    is_trusted = spec.origin is not None and (is_own(run / "config.yaml") or all(map(_is_installed, around)))
    return bool(around) and not is_trusted


def _is_installed(package: Path) -> bool:
    """Return whether pip installed a package, in site-packages or as editable."""
    homes = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    lines = (line for home in homes for file in home.glob("*.pth") for line in file.read_text("utf-8").splitlines())
    editable = {Path(line).resolve() for line in lines if line and not line.startswith("import")} - {Path.cwd()}
    return not homes.isdisjoint(package.parents) or package.parent in editable


def find_class(name: Any) -> type | None:
    """Return a class by its path, after `check_class_paths`; None if it is not a class."""
    module, _, attribute = str(name).rpartition(".")
    with suppress(ImportError, ValueError):
        found = getattr(importlib.import_module(module or "kindling"), attribute, None)
        return found if isinstance(found, type) else None
    return None


def nested(value: Any, specs: bool = True) -> Iterator[Any]:
    """Yield a value and all values in its lists and dictionaries, and in the `specs` of models, which are JSON."""
    yield value
    if specs and isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError, RecursionError):
            value = [json.loads(value)]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in items:
        yield from nested(item, specs)


def texts(value: Any) -> Iterator[str]:
    """Yield all strings in nested lists and dictionaries."""
    return (item for item in nested(value, specs=False) if isinstance(item, str))


def dotted_names(value: Any) -> Iterator[str]:
    """Yield all strings that jsonargparse may import."""
    return (text for text in texts(value) if DOTTED.fullmatch(text.strip()))


def class_paths(stored: Any) -> Iterator[str]:
    """Yield the names of all classes in stored values."""
    for item in nested(stored):
        if isinstance(item, dict):
            names = (item.get(name) for name in ("class_path", "_class_path", "model"))
            yield from (name for name in names if isinstance(name, str))


def check_size(config: Any) -> None:
    """Raise ValueError if the aliases of a YAML file expand to too many values ("billion laughs")."""
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = math.inf  # if it contains itself
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, items))
        return sizes[id(value)]

    if size(config) > MAX_VALUES:
        raise ValueError(f"a configuration of more than {MAX_VALUES:,} values: write it without aliases (*)")


def check_links(checkpoint: Path) -> None:
    """Raise ValueError if a link points out of the run folder of a checkpoint, unless the run was created here.

    Another file would be read or overwritten.
    """
    run = run_folder_of(checkpoint)
    if not is_in_run(checkpoint):  # the results go into a folder next to it
        for link in (run, *([checkpoint.parent] if checkpoint.parent.name == "checkpoints" else [])):
            if link.is_symlink():
                raise ValueError(f"{link} is a link to another folder: results of {checkpoint} would be written there")
    if is_own_here(run):
        return
    for folder, folders, files in os.walk(run):
        folders[:] = [name for name in folders if not name.startswith(".")]  # such as .venv: Kindling uses none
        for path in map(Path(folder).joinpath, [*folders, *files]):
            if path.is_symlink() and run.resolve() not in path.resolve().parents:
                raise ValueError(
                    f"{path} is a link out of a run folder from elsewhere: replace it with the file itself"
                )


def check_parts(hyper_parameters: dict[str, Any], source: Path) -> None:
    """Raise ValueError if the backbone or a member of an ensemble is in another file; `fit` stores them in `source`."""
    backbone, members = hyper_parameters.get("backbone"), hyper_parameters.get("checkpoints")
    for part in (backbone, *(members if isinstance(members, list | tuple) else [])):
        if isinstance(part, str) and not part.startswith("{") and (part in ("best", "last") or os.path.lexists(part)):
            raise ValueError(f"{source} is incomplete: a part of its model is in another file, {part}")
