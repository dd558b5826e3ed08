"""Checkpoint files: written atomically with checksums, and verified when read."""

import logging
import pickle
import shutil
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion  # of an altered version of Lightning

from kindling.runs.folders import is_last
from kindling.utils.files import atomic_write
from kindling.utils.text import join_names, shorten

logger = logging.getLogger(__name__)

CHUNK = 2**20  # bytes that are read at once
RESTORING_FILE = "checkpoint_connector.py"  # Lightning's module that restores a checkpoint
REQUIRED = ("state_dict", "global_step")
TYPES: dict[str, type] = {
    "datamodule_hyper_parameters": dict,
    "state_dict": dict,
    "global_step": int,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
}


class DamagedError(ValueError):
    """A truncated or corrupt checkpoint."""


def read_checkpoint(path: Path, verify_tensors: bool = True, mmap: bool = True) -> dict[str, Any]:
    """Read a checkpoint without running any code that it may contain.

    Args:
        path: The file.
        verify_tensors: Whether to verify the checksums of the tensors as well as those of all other values.
        mmap: Whether to map the tensors into memory; False if the file may be replaced while they are in use.

    Raises:
        DamagedError: If the file is damaged.
        ValueError: If it is not a Kindling checkpoint, or contains code.
    """
    _verify(path, verify_tensors)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} contains more than weights and plain values and could run code: it was not loaded"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise DamagedError(f"{path} is damaged, truncated or not a checkpoint") from error
    _check_content(path, checkpoint)
    return checkpoint


def _verify(path: Path, tensors: bool) -> None:
    """Verify the CRC-32 of the parts of a file, which torch.save writes and torch.load ignores."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if tensors or name.endswith("/data.pkl"):
                    with archive.open(name) as part:
                        while part.read(CHUNK):
                            pass
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # zipfile raises many kinds of errors for a damaged archive
        raise DamagedError(f"{path} is damaged, truncated or not a checkpoint") from error


def _check_content(path: Path, checkpoint: Any) -> None:
    """Check that a file contains a model of Kindling, and that its parts have the right types.

    Raises:
        ValueError: If not: another program wrote the file, or it was modified.
    """
    model = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("_class_path"), str):
        raise ValueError(f"{path} is not a Kindling checkpoint: it has no model class in its hyperparameters")
    if missing := [name for name in REQUIRED if name not in checkpoint]:
        raise ValueError(f"{path} was modified: it lacks {join_names(missing)}")
    for name, kind in TYPES.items():
        if name in checkpoint and not isinstance(checkpoint[name], kind):
            raise ValueError(f"{path} was modified: its {name} is {shorten(repr(checkpoint[name]), 60)}")


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint.

    Raises:
        OSError: If the file can't be written; an existing one is left unchanged.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides the OSError of a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def restore_last(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint to resume from; replace a damaged `last.ckpt` with the newest intact checkpoint of its run.

    Raises:
        ValueError: If the checkpoint is damaged and can't be replaced.
    """
    try:
        return read_checkpoint(checkpoint, mmap=False)
    except DamagedError:
        if not is_last(checkpoint):
            raise
    steps = {}
    for other in set(checkpoint.parent.glob("*.ckpt")) - {checkpoint}:
        with suppress(ValueError, OSError):
            stored = read_checkpoint(other)
            steps[other] = stored["global_step"] if "optimizer_states" in stored else -1
    # At the same step, prefer previous.ckpt: best.ckpt was saved before the schedulers were stepped.
    newest = max(steps, key=lambda path: (steps[path], path.name == "previous.ckpt"), default=checkpoint)
    if steps.get(newest, -1) < 0:
        raise DamagedError(f"{checkpoint} is damaged, and its run has no intact checkpoint to resume from")
    with atomic_write(checkpoint) as temporary:
        shutil.copyfile(newest, temporary)
    logger.warning(f"{checkpoint} is damaged: resuming from {newest.name}, saved after step {steps[newest]}")
    return read_checkpoint(checkpoint, mmap=False)


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Replace an error of Lightning, while it restores a checkpoint, with one that names the file.

    Raises:
        ValueError: In place of an error such as KeyError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, InvalidVersion) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if path is None or not any(Path(frame.filename).name == RESTORING_FILE for frame in frames):
            raise
        reason = shorten(f"{type(error).__name__}: {error}", 100)
        raise ValueError(f"{path} was modified or is of another version: it can't be restored ({reason})") from error
