"""Plug-ins: packages with an entry point in the group `kindling.plugins`, and files and modules of `--plugin`."""

import argparse
import importlib
import importlib.util
import keyword
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from kindling.utils.errors import UsageError, UsageErrorParser
from kindling.utils.text import suggest

GROUP = "kindling.plugins"
HELP = "File or module with custom classes; can be repeated."
ENGINE = ("kindling", "lightning", "pytorch_lightning", "torch")  # packages whose classes need no plug-in


@dataclass(frozen=True)
class Plugin:
    """A module whose classes are available by their short names."""

    package: str  # its module if it is a single file
    source: str  # name of the distribution, or value of `--plugin`
    is_named: bool  # by `--plugin`

    def defines(self, class_path: str) -> bool:
        """Return whether a class belongs to the package of this plug-in."""
        return class_path.startswith(f"{self.package}.")


LOADED: dict[str, Plugin] = {}  # by module: the plug-ins of this command
FILES: dict[str, Path] = {}  # by module: all plug-in files imported in this process
FOLDERS: set[str] = set()  # added to sys.path for those files


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--plugin` to the help page of a parser; `load_plugins` removes the option before parsing."""
    parser.add_argument("--plugin", metavar="FILE", action="append", help=HELP)


def split_options(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the values of `--plugin` and all other options."""
    parser = UsageErrorParser(add_help=False)
    add_option(parser)
    found, others = parser.parse_known_args(list(options))
    return found.plugin or [], others


def load_plugins(options: Sequence[str]) -> list[str]:
    """Import the installed plug-ins and those of `--plugin`, and return all other options.

    Raises:
        UsageError: If a file or module does not exist.
        ValueError: If a plug-in can't be imported or has no suitable classes.
    """
    named, others = split_options(options)
    LOADED.clear()
    import_plugins(named)
    return others


def import_plugins(named: Iterable[str | Path] = ()) -> None:
    """Import the installed plug-ins and the named files and modules; see `load_plugins`."""
    for entry in entry_points(group=GROUP):
        source = entry.dist.name if entry.dist else entry.name
        _add(source, partial(importlib.import_module, entry.module), is_named=False)
    for name in map(str, named):
        is_module = not name.endswith(".py") and all(part.isidentifier() for part in name.split("."))
        _add(name, partial(_import_module, name) if is_module else partial(_import_file, Path(name)))


def _add(source: str, load: Callable[[], ModuleType], is_named: bool = True) -> None:
    try:
        module = load()
    except (Exception, SystemExit) as error:
        if isinstance(error, UsageError):
            raise
        raise ValueError(f"the plug-in {source} can't be imported: {describe_import_error(error, source)}") from error
    package = module.__name__ if hasattr(module, "__path__") else module.__package__ or module.__name__
    plugin = Plugin(package, source, is_named)
    if not _has_classes(plugin, module):
        raise ValueError(f"the plug-in {source} has no model, data module or callback: define or import one there")
    LOADED[module.__name__] = plugin


def describe_import_error(error: BaseException, source: str) -> str:
    """Return a one-line description of the error of an import, with file and line; `source` is what was imported."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or source).name}, line {error.lineno})"
    import_machinery = ("<frozen", importlib.__file__, importlib.util.__file__, __file__)
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if not frame.filename.startswith(import_machinery)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise
        hint = f"did you mean {name}.py?" if Path(f"{name}.py").is_file() else "name a file or an installed module"
        raise UsageError(f"--plugin {name}: there is no module {error.name}: {hint}") from error


def _import_file(path: Path) -> ModuleType:
    """Import a file as a module by its name; its folder is added to `sys.path`, for worker processes too."""
    name, folder = path.stem, str(path.absolute().parent)
    if not path.is_file():
        near = suggest(str(path), map(str, [*path.parent.glob("*.py"), *Path().glob("*.py")]))
        raise UsageError(f"--plugin: there is no file {path}{near}")
    if not name.isidentifier() or keyword.iskeyword(name) or path.suffix != ".py":
        raise UsageError(f"--plugin {path}: rename the file so that Python can import it, for example my_models.py")
    if name in FILES and not (FILES[name].exists() and FILES[name].samefile(path)):
        if name in LOADED:
            raise UsageError(f"--plugin: two files are called {name}.py: rename one of them")
        del FILES[name], sys.modules[name]  # of an earlier command in this process
    _add_folder(folder)
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin or not Path(spec.origin).exists() or not path.samefile(spec.origin):
        raise UsageError(f"--plugin {path}: another module is called {name}: rename the file")
    module = importlib.import_module(name)
    FILES[name] = path.absolute()
    return module


def _add_folder(folder: str) -> None:
    """Add a folder to `sys.path`: after all others, but before the folders of other plug-ins."""
    others = [place for place in sys.path if place not in FOLDERS]
    if folder not in others:
        FOLDERS.add(folder)
        sys.path[:] = [*others, folder, *(place for place in sys.path if place in FOLDERS and place != folder)]
    importlib.invalidate_caches()


def _has_classes(plugin: Plugin, module: ModuleType) -> bool:
    """Return whether a plug-in defines or imports a class that an option of `fit` can take."""
    from lightning.pytorch import Callback, LightningDataModule, LightningModule  # takes seconds
    from lightning.pytorch.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    bases = (LightningModule, LightningDataModule, Callback, Logger, Optimizer, LRScheduler)
    modules = [module, *(each for name, each in list(sys.modules.items()) if plugin.defines(name))]
    values = (value for each in modules for value in vars(each).values())
    found = [value.__module__ for value in values if isinstance(value, type) and issubclass(value, bases)]
    return any(plugin.defines(f"{name}.") or name.partition(".")[0] not in ENGINE for name in found)


def prefer_plugins(class_paths: Sequence[str]) -> list[str]:
    """Return which classes a short name refers to: those of `--plugin`, else of an installed plug-in, else all."""
    earlier = FILES.keys() - LOADED.keys()  # plug-ins of earlier commands in this process
    parts = {path: path.rpartition(".") for path in class_paths if path.partition(".")[0] not in earlier}
    class_paths = [path for path, (module, _, name) in parts.items() if hasattr(sys.modules.get(module), name)]
    for is_named in (True, False):
        plugins = [plugin for plugin in LOADED.values() if plugin.is_named == is_named]
        if found := [path for path in class_paths if any(plugin.defines(path) for plugin in plugins)]:
            return found
    return class_paths


def plugin_options() -> str:
    """Return the `--plugin` options of this command, to suggest them for the next one."""
    return " ".join(f"--plugin {shlex.quote(each.source)}" for each in LOADED.values() if each.is_named)


def sources(class_paths: Iterable[str]) -> dict[str, str]:
    """Return how to get the plug-ins that define classes, by top-level module: an option, or a distribution."""
    found = ((path, plugin) for path in class_paths for plugin in LOADED.values() if plugin.defines(path))
    return {
        path.partition(".")[0]: f"--plugin {Path(plugin.source).name}" if plugin.is_named else plugin.source
        for path, plugin in found
    }


def check_available(class_path: str, hints: Mapping[str, str]) -> None:
    """Check that the module of a class in a checkpoint is installed or a loaded plug-in.

    Args:
        class_path: The class.
        hints: The result of `sources` when the checkpoint was saved; empty if it is not trusted. No command to install
            a package is ever printed, since anybody may own its name on a package index.

    Raises:
        ValueError: If it is neither, with the way to get it.
    """
    top = class_path.partition(".")[0]
    if "." not in class_path or not top.isidentifier() or _is_importable(top):
        return
    source = str(hints.get(top, "")).removeprefix("pip install ")  # as earlier versions stored it
    hint = f"add --plugin {top}.py, or install the package {top} that has it"
    if re.fullmatch(r"--plugin [\w.-]+", source):
        hint = f"add {source}"
    elif re.fullmatch(r"\w[\w.-]*", source):
        hint = f"install the package {source} that has it"
    raise ValueError(f"the checkpoint needs {class_path} from a plug-in that is missing: {hint}")


def _is_importable(module: str) -> bool:
    """Return whether a module can be imported without the folders of plug-in files."""
    if module in FILES:  # of this command, or of an earlier one in this process
        return module in LOADED
    places = sys.path[:]
    sys.path[:] = [place for place in places if place not in FOLDERS]
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    finally:
        sys.path[:] = places
