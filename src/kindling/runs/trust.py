"""Whether a run was made here, and what is used of one that was not.

A run folder from someone else must not run code, write outside its folder or read files elsewhere. `fit` signs the
`config.yaml` of its run and what its checkpoints name with a key of this user's, and resumes it as it was typed. Of any
other configuration only those values are used that can do no harm; see `kindling.runs.foreign` for its data.
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

MARK = "# signed by the user who ran this: "
SIGNATURES = re.compile("[0-9a-f]{64}( [0-9a-f]{64})?")
SAFE = re.compile(r"[\w:.-]*")  # a text that is no path
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # what jsonargparse imports
MOST_VALUES = 100_000  # of a configuration
SIGNATURE = "signature"  # key of a checkpoint
GROUPS = (
    "model",
    "data",
    "trainer",
    "checkpoint",
    "early_stopping",
)  # of options; a text would be another file of them
CLASSES = ("logger", "callbacks", "plugins", "default_root_dir")  # of the Trainer: their texts are classes and paths


AVERAGING = [f"kindling.{package}.{name}" for package in ("training", "callbacks") for name in ("EMA", "SWA")]


def sign(config: Path) -> None:
    """Sign a configuration as written by this user, and written in its folder; without a home for a key, do nothing."""
    if key := _key(create=True):
        text = config.read_text(encoding="utf-8")
        with config.open("a", encoding="utf-8") as file:
            file.write(f"{MARK}{_signature(text, key)} {_signature(_in_place(text, config), key)}\n")


def is_own(config: Path) -> bool:
    """Whether a configuration was signed by this user, and not changed since."""
    text, signatures, key = _signed(config)
    return key is not None and hmac.compare_digest(_signature(text, key).encode(), signatures[0])


def is_own_here(run: Path) -> bool:
    """Whether a run was made by this user in the folder where it is: others can't send links with a configuration.

    Links in a run folder are followed only then.
    """
    text, signatures, key = _signed(config := run / "config.yaml")
    return key is not None and hmac.compare_digest(_signature(_in_place(text, config), key).encode(), signatures[-1])


def _signed(config: Path) -> tuple[str, list[bytes], bytes | None]:
    """Return the text of a configuration, its signatures, and the key to verify them; no key if it has none."""
    key = _key()
    if key is None or not config.is_file():
        return "", [], None
    text, mark, signatures = config.read_bytes().decode("utf-8", "replace").rpartition(MARK)
    return text, signatures.encode().split(), key if mark and SIGNATURES.fullmatch(signatures.strip()) else None


def _in_place(text: str, config: Path) -> str:
    return f"{text}{config.parent.resolve()}"


def sign_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the signature of what a checkpoint names, to be stored in it; nothing without a home for a key."""
    key = _key(create=True)
    return {SIGNATURE: _signature(_named_in(checkpoint), key)} if key else {}


def is_own_checkpoint(stored: Mapping[str, Any], checkpoint: Path) -> bool:
    """Whether a checkpoint was written by this user; of earlier versions, which signed none, whether its run was."""
    if SIGNATURE not in stored:
        return checkpoint.parent.name == "checkpoints" and is_own(run_folder_of(checkpoint) / "config.yaml")
    key, signature = _key(), str(stored[SIGNATURE])
    return key is not None and hmac.compare_digest(_signature(_named_in(stored), key).encode(), signature.encode())


def plugin_sources(stored: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """Return how to get the plug-ins that a checkpoint needs; nothing of a checkpoint that this user did not write."""
    return dict(stored.get("plugins") or {}) if is_own_checkpoint(stored, checkpoint) else {}


def _named_in(checkpoint: Mapping[str, Any]) -> str:
    parts = [checkpoint.get(name) for name in ("hyper_parameters", "datamodule_hyper_parameters")]
    return json.dumps([None if part is None else {**part} for part in parts], default=str)


def _signature(text: str, key: bytes) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(create: bool = False) -> bytes | None:
    """This user's key; None if there is none, and if none can be kept."""
    with suppress(OSError, RuntimeError):  # without a home
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
    """What is used of a configuration that was not written here, with a line about the rest.

    Args:
        config: The configuration.
        source: Its file.
    """
    kept, left_out = dict(config), []
    for name, value in config.items():
        if name == "trainer" and isinstance(value, dict):
            unsafe = [key for key, one in value.items() if not _is_safe(one, key in CLASSES) or any(_dotted_names(one))]
            kept[name] = {key: one for key, one in value.items() if key not in unsafe}
            left_out += [f"trainer.{key}" for key in unsafe]
        elif name == "averaging" and _is_averaging(value):
            continue  # without it, the run would resume from other weights
        elif not (isinstance(value, dict | None) if name in GROUPS else _is_safe(value) and value not in (".", "..")):
            del kept[name]
            left_out.append(name)
    if left_out:
        logger.warning(
            f"{source} was not written here: {join_names(left_out)} left out; to use all of it, add --config {source}"
        )
    return kept


def _is_safe(value: Any, is_class: bool = False) -> bool:
    """Whether a value names neither a class nor a path."""
    match value:
        case str():
            return not is_class and bool(SAFE.fullmatch(value))
        case list():
            return all(_is_safe(one, is_class) for one in value)
        case dict():
            return "class_path" not in value and all(_is_safe(one, is_class) for one in value.values())
    return True


def _is_averaging(value: Any) -> bool:
    """Return whether a value is one of Kindling's own ways to average weights."""
    own = isinstance(value, dict) and value.get("class_path") in AVERAGING
    return own and _is_safe(value.get("init_args"))


def check_classes(stored: Any, run: Path, what: str = "model", plugins: Mapping[str, str] | None = None) -> None:
    """Check that the classes that stored values name are there, and not code that came with them, or Python's own.

    Args:
        stored: Values of a checkpoint or a configuration.
        run: The folder that came with them.
        what: What the classes are.
        plugins: How to get the plug-ins that they belong to; see `kindling.utils.plugins.sources`.

    Raises:
        ValueError: If one is; none has been imported then.
    """
    for name in class_paths(stored):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            raise ValueError(f"the checkpoint holds a {name}, which is no {what} of Kindling")
        if top in LOADED and LOADED[top].is_named:
            continue
        if top.isidentifier() and (spec := importlib.util.find_spec(top)) and _comes_with(spec, run):
            raise ValueError(f"the checkpoint holds a {name}, code that comes with the run {run}: it was not run")
        check_available(name, plugins or {})


def _comes_with(spec: ModuleSpec, run: Path) -> bool:
    """Whether a package is in a run folder, or around one: any folder of the working directory is a package."""
    places = {Path(place).resolve() for place in (*(spec.submodule_search_locations or []), spec.origin or "") if place}
    run = run.resolve()
    if any(place == run or run in place.parents for place in places):
        return True
    around = places.intersection(run.parents)  # an installed package may bring the checkpoint of its own model
    is_trusted = spec.origin is not None and (is_own(run / "config.yaml") or all(map(_is_installed, around)))
    return bool(around) and not is_trusted


def _is_installed(package: Path) -> bool:
    """Whether the folder of a package is where pip installs it, or in a folder that it added as editable."""
    homes = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    lines = (line for home in homes for file in home.glob("*.pth") for line in file.read_text("utf-8").splitlines())
    editable = {Path(line).resolve() for line in lines if line and not line.startswith("import")} - {Path.cwd()}
    return not homes.isdisjoint(package.parents) or package.parent in editable


def check_factories(hyper_parameters: dict[str, Any], source: Path) -> None:
    """Check that a checkpoint from elsewhere names classes alone to train with: a function would be called.

    Args:
        hyper_parameters: The model's, whose classes have passed `check_classes`.
        source: The checkpoint.

    Raises:
        ValueError: If its optimizer or scheduler is a function, or takes one.
    """
    from torch.optim import Optimizer  # torch takes seconds
    from torch.optim.lr_scheduler import LRScheduler

    for part, base in (("optimizer", Optimizer), ("lr_scheduler", LRScheduler)):
        factory = hyper_parameters.get(part)
        if factory is None:
            continue
        name = factory.get("class_path") if isinstance(factory, dict) else factory
        if not (isinstance(factory, dict) and _is_class(name, base)):
            raise ValueError(f"{source} names {name} as its {part}, which is no {base.__name__}: it was not run")
        if function := next(_dotted_names(factory.get("init_args")), None):
            raise ValueError(f"{source} names a function, {function}, in its {part}: it was not imported or run")


def _is_class(name: Any, base: type) -> bool:
    module, _, attribute = str(name).rpartition(".")
    with suppress(ImportError, ValueError):
        found = getattr(importlib.import_module(module), attribute, None)
        return isinstance(found, type) and issubclass(found, base)
    return False


def _dotted_names(value: Any) -> Iterator[str]:
    match value:
        case str() if DOTTED.fullmatch(value.strip()):
            yield value
        case list() | tuple():
            for item in value:
                yield from _dotted_names(item)
        case dict():
            for item in value.values():
                yield from _dotted_names(item)


def class_paths(stored: Any) -> Iterator[str]:
    """The names of all classes in stored values, also in the descriptions of models, which are JSON."""
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
    """Check that the aliases of a YAML file do not make it grow without limit where it is used: "a billion laughs".

    Raises:
        ValueError: If they do.
    """
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = math.inf  # of what holds itself
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, items))
        return sizes[id(value)]

    if size(config) > MOST_VALUES:
        raise ValueError(f"a configuration of more than {MOST_VALUES:,} values: write it without aliases (*)")


def check_links(checkpoint: Path) -> None:
    """Check that no link in the run folder of a checkpoint leads out of it, unless the run was made here.

    Raises:
        ValueError: If one does: what is written there, or read, would be another file.
    """
    run = run_folder_of(checkpoint)
    if checkpoint.parent.name != "checkpoints" and run.is_symlink():  # a folder beside it, for what is found out
        raise ValueError(f"{run} is a link to another folder: results of {checkpoint} would be written there")
    if is_own_here(run):
        return
    here = run.resolve()
    for path in run.rglob("*"):
        if path.is_symlink() and here not in path.resolve().parents:
            raise ValueError(f"{path} leads out of its run folder, which was not made here: put the file itself there")


def check_parts(hyper_parameters: dict[str, Any], source: Path) -> None:
    """Check that the parts of a stored model are in its checkpoint, as `fit` puts them there, and in no other file.

    Raises:
        ValueError: If the model would be put together from other files.
    """
    backbone, members = hyper_parameters.get("backbone"), hyper_parameters.get("checkpoints")
    for part in (backbone, *(members if isinstance(members, list | tuple) else [])):
        if isinstance(part, str) and not part.startswith("{") and (part in ("best", "last") or os.path.lexists(part)):
            raise ValueError(f"{source} takes a part of its model from {part}, another file: it holds no whole model")
