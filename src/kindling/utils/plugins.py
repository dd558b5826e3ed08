"""Plug-ins: installed packages and single files whose classes are available by their short names.

A package is a plug-in if it declares an entry point in the group `kindling.plugins`; a file or module is one where
`--plugin` names it.
"""

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
HELP = "File or module with models, data modules or callbacks of your own; can be repeated."
ENGINE = ("kindling", "lightning", "pytorch_lightning", "torch")  # whose classes need no plug-in


@dataclass(frozen=True)
class Plugin:
    """A module whose classes are available by their short names.

    Attributes:
        module: Its name.
        package: The package that it belongs to; a single file is its own.
        source: What brings it: the name of a distribution, or of a file or module that was given with `--plugin`.
        is_named: Whether it was given with `--plugin`.
    """

    module: str
    package: str
    source: str
    is_named: bool

    @property
    def way_to_get(self) -> str:
        """The option that brings this plug-in where it is missing; the name of its distribution if it is installed."""
        return f"--plugin {Path(self.source).name}" if self.is_named else self.source

    def has(self, class_path: str) -> bool:
        """Return whether a class is defined in the package of this plug-in."""
        return class_path.startswith(f"{self.package}.")


LOADED: dict[str, Plugin] = {}  # by module: those of this command
FILES: dict[str, Path] = {}  # by module: all files that were imported in this process
FOLDERS: set[str] = set()  # on sys.path for the sake of those files


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--plugin` to a parser, for its help page; `load_plugins` removes the option before anything is parsed."""
    parser.add_argument("--plugin", metavar="FILE", action="append", help=HELP)


def split_options(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the values of `--plugin`, and all other options."""
    parser = UsageErrorParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    found, others = parser.parse_known_args(list(options))
    return found.plugin, others


def load_plugins(options: Sequence[str]) -> list[str]:
    """Import the installed plug-ins and those given with `--plugin`, and return all other options.

    Raises:
        UsageError: If there is no such file or module.
        ValueError: If a plug-in can't be imported or has no classes.
    """
    named, others = split_options(options)
    LOADED.clear()
    import_plugins(named)
    return others


def import_plugins(named: Iterable[str | Path] = ()) -> None:
    """Import the installed plug-ins and the given files and modules; see `load_plugins`."""
    for entry in entry_points(group=GROUP):
        source = entry.dist.name if entry.dist else entry.name
        _add(source, partial(importlib.import_module, entry.module), is_named=False)
    names = [str(name) for name in named]
    stems = [Path(name).stem for name in dict.fromkeys(names) if _is_file(name)]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UsageError(f"--plugin: two files are called {twice}.py: rename one of them")
    for name in names:
        _add(name, partial(_import_file, Path(name)) if _is_file(name) else partial(_import_module, name))


def _is_file(name: str) -> bool:
    return name.endswith(".py") or not all(part.isidentifier() for part in name.split("."))


def _add(source: str, load: Callable[[], ModuleType], is_named: bool = True) -> None:
    try:
        module = load()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"the plug-in {source} can't be imported: {_reason(error, source)}") from error
    package = module.__name__ if hasattr(module, "__path__") else module.__package__ or module.__name__
    plugin = Plugin(module.__name__, package, source, is_named)
    if not _has_classes(plugin, module):
        raise ValueError(f"the plug-in {source} has no model, data module or callback: define or import one there")
    LOADED[module.__name__] = plugin


def _reason(error: BaseException, source: str) -> str:
    """Return what is wrong with a plug-in, and in which line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or source).name}, line {error.lineno})"
    ours = (importlib.__file__, importlib.util.__file__, __file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    theirs = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    where = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {error}{where}"


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            file = f"{name}.py"
            hint = f"did you mean {file}?" if Path(file).is_file() else "give a file, or a module that is installed"
            raise UsageError(f"--plugin {name}: there is no module {error.name}: {hint}") from error
        raise


def _import_file(path: Path) -> ModuleType:
    """Import a file under its own name, from its folder, where worker processes find it too."""
    name, folder = path.stem, str(path.absolute().parent)
    if not path.is_file():
        near = suggest(str(path), map(str, [*path.parent.glob("*.py"), *Path().glob("*.py")]))
        raise UsageError(f"--plugin: there is no file {path}{near}")
    if not name.isidentifier() or keyword.iskeyword(name) or path.suffix != ".py":
        raise UsageError(f"--plugin {path}: rename the file so that Python can import it, for example my_models.py")
    if name in FILES and not (FILES[name].exists() and FILES[name].samefile(path)):
        del FILES[name], sys.modules[name]  # of an earlier command in this process
    _add_folder(folder)
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin or not Path(spec.origin).exists() or not path.samefile(spec.origin):
        raise UsageError(f"--plugin {path}: there is another module called {name}: rename the file")
    module = importlib.import_module(name)
    FILES[name] = path.absolute()
    return module


def _add_folder(folder: str) -> None:
    """Add a folder to the end of `sys.path`, but before those of other plug-ins."""
    others = [place for place in sys.path if place not in FOLDERS]
    if folder not in others:
        FOLDERS.add(folder)
        sys.path[:] = [*others, folder, *(place for place in sys.path if place in FOLDERS and place != folder)]
    importlib.invalidate_caches()


def _has_classes(plugin: Plugin, module: ModuleType) -> bool:
    """Return whether a plug-in defines or imports a class of its own for an option of `fit`."""
    from lightning.pytorch import Callback, LightningDataModule, LightningModule  # takes seconds
    from lightning.pytorch.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    bases = (LightningModule, LightningDataModule, Callback, Logger, Optimizer, LRScheduler)
    modules = [module, *(each for name, each in list(sys.modules.items()) if plugin.has(name))]
    classes = [value for each in modules for value in vars(each).values() if isinstance(value, type)]
    return any(
        issubclass(cls, bases) and (plugin.has(f"{cls.__module__}.") or cls.__module__.partition(".")[0] not in ENGINE)
        for cls in classes
    )


def preferred(class_paths: Sequence[str]) -> list[str]:
    """Return those of several classes of one name that it stands for: of `--plugin`, else of a package, else all.

    Those of plug-ins of an earlier command in this process are left out.
    """
    class_paths = [path for path in class_paths if _is_there(path) and not _is_forgotten(path.partition(".")[0])]
    for is_named in (True, False):
        plugins = [plugin for plugin in LOADED.values() if plugin.is_named == is_named]
        if found := [path for path in class_paths if any(plugin.has(path) for plugin in plugins)]:
            return found
    return class_paths


def _is_there(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    return hasattr(sys.modules.get(module), name)


def _is_forgotten(module: str) -> bool:
    return module in FILES and module not in LOADED


def options_again() -> str:
    """Return the `--plugin` options that a further command needs."""
    return " ".join(f"--plugin {shlex.quote(each.source)}" for each in LOADED.values() if each.is_named)


def sources(class_paths: Iterable[str]) -> dict[str, str]:
    """Return how to get the plug-ins that define the given classes: for each top-level module, its `way_to_get`."""
    found = ((path, plugin) for path in class_paths for plugin in LOADED.values() if plugin.has(path))
    return {path.partition(".")[0]: plugin.way_to_get for path, plugin in found}


def check_available(class_path: str, ways: Mapping[str, str], what: str = "the checkpoint") -> None:
    """Check that the module of a stored class is installed, or is a plug-in that was given.

    Args:
        class_path: The class.
        ways: How to get the plug-ins that the checkpoint needs, as `sources` returned them; empty if a stranger wrote
            them. A command to install one is never printed: on an index, its name may be anybody's.
        what: What names the class.

    Raises:
        ValueError: If it is neither.
    """
    top = class_path.partition(".")[0]
    if "." not in class_path or not top.isidentifier() or (not _is_forgotten(top) and _is_importable(top)):
        return
    way = str(ways.get(top)).removeprefix("pip install ")  # as it was written by earlier versions
    if re.fullmatch(r"--plugin [\w.-]+", way):
        hint = f"add {way}"
    elif top in ways and re.fullmatch(r"\w[\w.-]*", way):
        hint = f"install the package {way} that has it"
    else:
        hint = f"add --plugin {top}.py, or install the package {top} that has it"
    raise ValueError(f"{what} needs {class_path} from a plug-in that is missing: {hint}")


def _is_importable(module: str) -> bool:
    """Return whether a module can be imported without the files that were given with `--plugin`."""
    places = sys.path[:]
    sys.path[:] = [place for place in places if place not in FOLDERS]
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    finally:
        sys.path[:] = places
