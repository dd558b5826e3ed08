"""Plug-ins: packages and files whose classes are available by their short names.

An installed package is a plug-in if it has an entry point in the group `kindling.plugins`; `--plugin` adds a file or
module.
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
HELP = "File or module with custom classes; can be repeated."
ENGINE = ("kindling", "lightning", "pytorch_lightning", "torch")  # packages whose classes need no plug-in


@dataclass(frozen=True)
class Plugin:
    """A module whose classes are available by their short names.

    Attributes:
        module: Name of the module.
        package: Its package; for a single file, the module itself.
        source: Name of the distribution, or the value of `--plugin`.
        is_named: Whether it was given by `--plugin`.
    """

    module: str
    package: str
    source: str
    is_named: bool

    @property
    def install_hint(self) -> str:
        """The `--plugin` option, or the name of the distribution, that provides this plug-in."""
        return f"--plugin {Path(self.source).name}" if self.is_named else self.source

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
    parser = UsageErrorParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    found, others = parser.parse_known_args(list(options))
    return found.plugin, others


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
    names = [str(name) for name in named]
    stems = [Path(name).stem for name in dict.fromkeys(names) if _is_file(name)]
    if duplicate := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UsageError(f"--plugin: two files are called {duplicate}.py: rename one of them")
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
    """Return the error in a plug-in, with its file and line."""
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
        if error.name and f"{name}.".startswith(f"{error.name}."):
            file = f"{name}.py"
            hint = f"did you mean {file}?" if Path(file).is_file() else "name a file or an installed module"
            raise UsageError(f"--plugin {name}: there is no module {error.name}: {hint}") from error
        raise


def _import_file(path: Path) -> ModuleType:
    """Import a file as a module by its name; its folder is added to `sys.path`, for worker processes too."""
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
    classes = [value for each in modules for value in vars(each).values() if isinstance(value, type)]
    return any(
        issubclass(cls, bases)
        and (plugin.defines(f"{cls.__module__}.") or cls.__module__.partition(".")[0] not in ENGINE)
        for cls in classes
    )


def prefer_plugins(class_paths: Sequence[str]) -> list[str]:
    """Return which of several classes of the same name it refers to: those of `--plugin`, else of a package, else all.

    Plug-ins of earlier commands in this process are ignored.
    """
    class_paths = [path for path in class_paths if _exists(path) and not _is_unloaded(path.partition(".")[0])]
    for is_named in (True, False):
        plugins = [plugin for plugin in LOADED.values() if plugin.is_named == is_named]
        if found := [path for path in class_paths if any(plugin.defines(path) for plugin in plugins)]:
            return found
    return class_paths


def _exists(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    return hasattr(sys.modules.get(module), name)


def _is_unloaded(module: str) -> bool:
    """Return whether a module is a plug-in of an earlier command in this process."""
    return module in FILES and module not in LOADED


def plugin_options() -> str:
    """Return the `--plugin` options of this command, to suggest them for the next one."""
    return " ".join(f"--plugin {shlex.quote(each.source)}" for each in LOADED.values() if each.is_named)


def sources(class_paths: Iterable[str]) -> dict[str, str]:
    """Return the `install_hint` of the plug-ins that define classes, by top-level module."""
    found = ((path, plugin) for path in class_paths for plugin in LOADED.values() if plugin.defines(path))
    return {path.partition(".")[0]: plugin.install_hint for path, plugin in found}


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
    if "." not in class_path or not top.isidentifier() or (not _is_unloaded(top) and _is_importable(top)):
        return
    source = str(hints.get(top)).removeprefix("pip install ")  # as earlier versions stored it
    if re.fullmatch(r"--plugin [\w.-]+", source):
        hint = f"add {source}"
    elif top in hints and re.fullmatch(r"\w[\w.-]*", source):
        hint = f"install the package {source} that has it"
    else:
        hint = f"add --plugin {top}.py, or install the package {top} that has it"
    raise ValueError(f"the checkpoint needs {class_path} from a plug-in that is missing: {hint}")


def _is_importable(module: str) -> bool:
    """Return whether a module can be imported without the folders of plug-in files."""
    places = sys.path[:]
    sys.path[:] = [place for place in places if place not in FOLDERS]
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    finally:
        sys.path[:] = places
