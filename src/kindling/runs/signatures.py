"""Signatures that distinguish the runs and checkpoints of this user from those of others.

`fit` signs its `config.yaml` and the classes in its checkpoints with a key of this user.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kindling.runs.folders import is_in_run, run_folder_of

SIGNATURE_PREFIX = "# signed by the user who ran this: "
SIGNATURES = re.compile("[0-9a-f]{64}( [0-9a-f]{64})?")
SIGNATURE = "signature"  # key of a checkpoint


def sign(config: Path) -> None:
    """Append two signatures to a config file, one of its text and one of its text and folder.

    Does nothing if no key can be stored.
    """
    if key := _key(create=True):
        text = config.read_text(encoding="utf-8")
        with config.open("a", encoding="utf-8") as file:
            file.write(f"{SIGNATURE_PREFIX}{_signature(text, key)} {_signature(_in_place(text, config), key)}\n")


def is_own(config: Path) -> bool:
    """Return whether a configuration was signed by this user and not changed since."""
    text, signatures, key = _signed(config)
    return key is not None and hmac.compare_digest(_signature(text, key).encode(), signatures[0])


def is_own_here(run: Path) -> bool:
    """Return whether this user created a run in its current folder; only then are links in it followed."""
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
    """Return the signature to store in a checkpoint; empty if no key can be stored."""
    key = _key(create=True)
    return {SIGNATURE: _signature(_signed_text(checkpoint), key)} if key else {}


def is_own_checkpoint(stored: Mapping[str, Any], checkpoint: Path) -> bool:
    """Return whether a checkpoint, or the run of one from an earlier version, was signed by this user."""
    if SIGNATURE not in stored:
        return is_in_run(checkpoint) and is_own(run_folder_of(checkpoint) / "config.yaml")
    key, signature = _key(), str(stored[SIGNATURE])
    return key is not None and hmac.compare_digest(_signature(_signed_text(stored), key).encode(), signature.encode())


def plugin_sources(stored: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """Return how to get the plug-ins of a checkpoint; empty unless this user wrote it."""
    return dict(stored.get("plugins") or {}) if is_own_checkpoint(stored, checkpoint) else {}


def _signed_text(checkpoint: Mapping[str, Any]) -> str:
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
