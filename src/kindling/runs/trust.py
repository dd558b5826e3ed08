"""Signatures of runs, and checks of runs from elsewhere.

A run folder from another user must not run code, write outside its folder or read other files. `fit` signs its
`config.yaml` and the classes in its checkpoints with a key of this user, and trusts signed configurations. Of all
others, only safe values are used; see `kindling.runs.foreign` for their files and functions.
"""

import hashlib
import hmac
import importlib.util
import json
import logging
import math
import os
import re
import secrets
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from kindling.runs.folders import run_folder_of
from kindling.utils.plugins import LOADED, check_available
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

SIGNATURE_PREFIX = "# signed by the user who ran this: "
SIGNATURES = re.compile("[0-9a-f]{64}( [0-9a-f]{64})?")
SAFE_TEXT = re.compile(r"[\w:.-]*")  # not a path
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # jsonargparse may import these
MAX_VALUES = 100_000  # of a configuration
SIGNATURE = "signature"  # key of a checkpoint
GROUPS = ("model", "data", "trainer", "checkpoint", "early_stopping")  # a text in their place would be a config file
CLASSES = ("logger", "callbacks", "plugins", "default_root_dir")  # Trainer options that take class names and paths
AVERAGING = [f"kindling.{package}.{name}" for package in ("training", "callbacks") for name in ("EMA", "SWA")]


def sign(config: Path) -> None:
    """Append signatures of a configuration, and of it in its folder; without a place for the key, do nothing."""
    if key := _key(create=True):
        text = config.read_text(encoding="utf-8")
        with config.open("a", encoding="utf-8") as file:
            file.write(f"{SIGNATURE_PREFIX}{_signature(text, key)} {_signature(_in_place(text, config), key)}\n")


def is_own(config: Path) -> bool:
    """Return whether a configuration was signed by this user and not changed since."""
    text, signatures, key = _signed(config)
    return key is not None and hmac.compare_digest(_signature(text, key).encode(), signatures[0])


def is_own_here(run: Path) -> bool:
    """Return whether a run was created by this user in its present folder; only then are links in it followed."""
    text, signatures, key = _signed(config := run / "config.yaml")
    return key is not None and hmac.compare_digest(_signature(_in_place(text, config), key).encode(), signatures[-1])


def _signed(config: Path) -> tuple[str, list[bytes], bytes | None]:
    """Return the text of a configuration, its signatures, and the key to verify them (None if it is not signed)."""
    key = _key()
    if key is None or not config.is_file():
        return "", [], None
    text, prefix, signatures = config.read_bytes().decode("utf-8", "replace").rpartition(SIGNATURE_PREFIX)
    return text, signatures.encode().split(), key if prefix and SIGNATURES.fullmatch(signatures.strip()) else None


def _in_place(text: str, config: Path) -> str:
    return f"{text}{config.parent.resolve()}"


def sign_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the signature to store in a checkpoint; empty without a place for the key."""
    key = _key(create=True)
    return {SIGNATURE: _signature(_named_in(checkpoint), key)} if key else {}


def is_own_checkpoint(stored: Mapping[str, Any], checkpoint: Path) -> bool:
    """Return whether a checkpoint, or the run of one from an earlier version, was signed by this user."""
    if SIGNATURE not in stored:
        return checkpoint.parent.name == "checkpoints" and is_own(run_folder_of(checkpoint) / "config.yaml")
    key, signature = _key(), str(stored[SIGNATURE])
    return key is not None and hmac.compare_digest(_signature(_named_in(stored), key).encode(), signature.encode())


def plugin_sources(stored: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """Return how to get the plug-ins of a checkpoint; empty unless this user wrote it."""
    return dict(stored.get("plugins") or {}) if is_own_checkpoint(stored, checkpoint) else {}


def _named_in(checkpoint: Mapping[str, Any]) -> str:
    parts = [checkpoint.get(name) for name in ("hyper_parameters", "datamodule_hyper_parameters")]
    return json.dumps([None if part is None else {**part} for part in parts], default=str)


def _signature(text: str, key: bytes) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(create: bool = False) -> bytes | None:
    """Return this user's key; None if there is none and it can't be created."""
    with suppress(OSError, RuntimeError):  # no home folder
        path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "kindling", "key")
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.touch(mode=0o600)
            temporary.write_bytes(secrets.token_bytes(32))
            with suppress(OSError):  # another process was faster, or the file system has no hard links
                os.link(temporary, path)
            if not path.exists():
                temporary.rename(path)
            temporary.unlink(missing_ok=True)
        return path.read_bytes()
    return None


def harmless(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the safe values of a configuration from elsewhere, and log the names of the others.

    Args:
        config: The configuration.
        source: Its file, for the message.
    """
    safe, ignored = dict(config), []
    for name, value in config.items():
        if name == "trainer" and isinstance(value, dict):
            unsafe = [
                key for key, item in value.items() if not _is_safe(item, key in CLASSES) or any(_dotted_names(item))
            ]
            safe[name] = {key: item for key, item in value.items() if key not in unsafe}
            ignored += [f"trainer.{key}" for key in unsafe]
        elif name == "averaging" and _is_averaging(value):
            continue  # needed to resume from the right weights
        elif not (isinstance(value, dict | None) if name in GROUPS else _is_safe(value) and value not in (".", "..")):
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
    own = isinstance(value, dict) and value.get("class_path") in AVERAGING
    return own and _is_safe(value.get("init_args"))


def check_classes(stored: Any, run: Path, what: str = "model", plugins: Mapping[str, str] | None = None) -> None:
    """Check that stored classes are installed or from plug-ins, neither from the run folder nor the standard library.

    No class is imported.

    Args:
        stored: Values of a checkpoint or a configuration.
        run: The run folder.
        what: Role of the classes, for messages.
        plugins: How to get their plug-ins; see `kindling.utils.plugins.sources`.

    Raises:
        ValueError: If a class is not.
    """
    for name in class_paths(stored):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            raise ValueError(f"the checkpoint names the class {name}, which is not a {what}")
        if top in LOADED and LOADED[top].is_named:
            continue
        if top.isidentifier() and (spec := importlib.util.find_spec(top)) and _comes_with(spec, run):
            raise ValueError(f"the checkpoint names the class {name}, whose code is in the run folder {run}: not run")
        check_available(name, plugins or {})


def _comes_with(spec: ModuleSpec, run: Path) -> bool:
    """Return whether a package is inside a run folder, or around it: any folder in the working directory is one."""
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


def check_factories(hyper_parameters: dict[str, Any], source: Path) -> None:
    """Check that the optimizer and scheduler of a checkpoint from elsewhere are classes: a function would be called.

    Args:
        hyper_parameters: Those of the model, after `check_classes`.
        source: The checkpoint, for messages.

    Raises:
        ValueError: If one is a function, or has a function as an argument.
    """
    from torch.optim import Optimizer  # torch takes seconds
    from torch.optim.lr_scheduler import LRScheduler

    for part, base in (("optimizer", Optimizer), ("lr_scheduler", LRScheduler)):
        factory = hyper_parameters.get(part)
        if factory is None:
            continue
        name = factory.get("class_path") if isinstance(factory, dict) else factory
        if not (isinstance(factory, dict) and _is_class(name, base)):
            raise ValueError(f"{source} names {name} as its {part}, which is not a {base.__name__}: it was not run")
        if function := next(_dotted_names(factory.get("init_args")), None):
            raise ValueError(f"{source} names the function {function} in its {part}: it was not imported or run")


def _is_class(name: Any, base: type) -> bool:
    module, _, attribute = str(name).rpartition(".")
    with suppress(ImportError, ValueError):
        found = getattr(importlib.import_module(module), attribute, None)
        return isinstance(found, type) and issubclass(found, base)
    return False


def texts(value: Any) -> Iterator[str]:
    """Yield all texts in nested lists and dictionaries."""
    match value:
        case str():
            yield value
        case list() | tuple():
            for item in value:
                yield from texts(item)
        case dict():
            for item in value.values():
                yield from texts(item)


def _dotted_names(value: Any) -> Iterator[str]:
    return (text for text in texts(value) if DOTTED.fullmatch(text.strip()))


def class_paths(stored: Any) -> Iterator[str]:
    """Yield the names of all classes in stored values, including models stored as JSON text."""
    match stored:
        case dict():
            for name, value in stored.items():
                if name in ("class_path", "_class_path", "model") and isinstance(value, str):
                    yield value
                yield from class_paths(value)
        case list() | tuple():
            for value in stored:
                yield from class_paths(value)
        case str() if stored.startswith("{"):
            with suppress(ValueError, RecursionError):
                yield from class_paths(json.loads(stored))


def check_size(config: Any) -> None:
    """Check that the aliases of a YAML file do not expand to too many values ("billion laughs").

    Raises:
        ValueError: If they do.
    """
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
    """Check that no link in the run folder of a checkpoint points out of it, unless the run was created here.

    Raises:
        ValueError: If one does: another file would be read or overwritten.
    """
    run = run_folder_of(checkpoint)
    if checkpoint.parent.name != "checkpoints" and run.is_symlink():  # the results' folder
        raise ValueError(f"{run} is a link to another folder: results of {checkpoint} would be written there")
    if is_own_here(run):
        return
    folder = run.resolve()
    for path in run.rglob("*"):
        if path.is_symlink() and folder not in path.resolve().parents:
            raise ValueError(f"{path} is a link out of a run folder from elsewhere: replace it with the file itself")


def check_parts(hyper_parameters: dict[str, Any], source: Path) -> None:
    """Check that a checkpoint contains the backbone and the ensemble members of its model, as `fit` stores them.

    Raises:
        ValueError: If a part would be loaded from another file.
    """
    backbone, members = hyper_parameters.get("backbone"), hyper_parameters.get("checkpoints")
    for part in (backbone, *(members if isinstance(members, list | tuple) else [])):
        if isinstance(part, str) and not part.startswith("{") and (part in ("best", "last") or os.path.lexists(part)):
            raise ValueError(f"{source} is incomplete: a part of its model is in another file, {part}")
