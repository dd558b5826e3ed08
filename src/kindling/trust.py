"""Whether a run was made here, and what is used of one that was not.

A run folder from someone else must not run code, write outside its folder or read files elsewhere. `fit` signs the
`config.yaml` of its run with a key of this user's: what it says is done as it was typed. Of any other configuration only
values are used that can do no harm.
"""

import hashlib
import hmac
import importlib.util
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kindling.console import say
from kindling.runs import whole_file
from kindling.wording import listed

MARK = "# signed by the user who ran this: "
SAFE = re.compile(r"[\w:.-]*")  # a text that is no path
CLASSES = ("logger", "callbacks", "plugins", "default_root_dir")  # of the Trainer: their texts are classes and paths


def sign(config: Path) -> None:
    """Sign a configuration as written by this user; without a home to keep a key in, leave it unsigned."""
    if key := _key(create=True):
        text = config.read_text(encoding="utf-8")
        with whole_file(config) as path:
            path.write_text(f"{text}{MARK}{_signature(text, key)}\n", encoding="utf-8")


def is_own(config: Path) -> bool:
    """Whether a configuration was signed by this user, and not changed since."""
    key = _key()
    if key is None or not config.is_file():
        return False
    text, mark, signature = config.read_bytes().decode("utf-8", "replace").rpartition(MARK)
    return bool(mark) and hmac.compare_digest(_signature(text, key).encode(), signature.strip().encode())


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
            with suppress(FileExistsError):  # of another process, which was faster
                os.link(temporary, path)
            temporary.unlink()
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
        if name in ("model", "data"):  # of the checkpoint, or checked by `check_classes`
            is_safe = isinstance(value, dict)
        elif name == "trainer" and isinstance(value, dict):
            unsafe = [key for key, one in value.items() if not _is_safe(one, key in CLASSES)]
            kept[name] = {key: one for key, one in value.items() if key not in unsafe}
            left_out += [f"trainer.{key}" for key in unsafe]
            continue
        else:
            is_safe = _is_safe(value, name == "trainer") and not (name == "run_name" and value in (".", ".."))
        if not is_safe:
            del kept[name]
            left_out.append(name)
    if left_out:
        say(f"{source} was not written here: {listed(left_out)} left out; to use all of it, add --config {source}")
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


def check_classes(stored: Any, source: Path, run: Path) -> None:
    """Check that the classes that stored values name are not code that came with them, or Python's own.

    Args:
        stored: Values of a checkpoint or a configuration.
        source: The file that holds them.
        run: The folder that came with it.

    Raises:
        ValueError: If one is; none has been imported then.
    """
    for name in class_paths(stored):
        top = name.partition(".")[0]
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
        places = [*(spec.submodule_search_locations or []), spec.origin or ""] if spec else []
        here = run.resolve()
        inside = [place for place in map(Path, filter(None, places)) if _share_a_branch(place.resolve(), here)]
        if top in sys.stdlib_module_names or inside:
            raise ValueError(f"{source} holds a {name}, which is no model, data or optimizer that is installed here")


def _share_a_branch(place: Path, run: Path) -> bool:
    return place == run or place in run.parents or run in place.parents


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
