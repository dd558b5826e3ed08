"""Checkpoint files: written in one piece, with checksums, and verified when they are read."""

import logging
import pickle
import shutil
import struct
import zipfile
import zlib
from contextlib import suppress
from lzma import LZMAError
from pathlib import Path
from typing import Any, Literal

import torch

from kindling.runs.checkpoint_contents import check_content
from kindling.runs.checksums import checksum
from kindling.runs.folders import is_last
from kindling.utils.files import atomic_write

logger = logging.getLogger(__name__)

Verify = Literal["metadata", "weights", "all"]
CHECKSUMS = "checksums"  # key of a checkpoint: the checksum of the tensors in each of its other parts
# What zipfile raises at a damaged archive.
UNZIPPING = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    struct.error,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    ValueError,
)
RESUME_ONLY = {"optimizer_states"}  # twice the size of the weights, and only resuming needs them


class DamagedError(ValueError):
    """A checkpoint that was cut off or altered."""


def read(path: Path, verify: Verify = "weights", mmap: bool = True) -> dict[str, Any]:
    """Read a checkpoint without running any code that it may carry.

    Args:
        path: The file.
        verify: What is compared with its checksum: the metadata alone, all but the optimizer's state, or everything.
        mmap: Whether to leave tensors in the file until they are used; else they outlive the file on the disk, which
            another process may replace.

    Raises:
        DamagedError: If the file is damaged.
        ValueError: If it is no checkpoint of Kindling, or carries code.
    """
    _verify_metadata(path)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights and plain values and could run code: it was not loaded"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise DamagedError(f"{path} is cut off, damaged or no checkpoint at all") from error
    check_content(path, checkpoint)
    if verify != "metadata":
        _verify_tensors(path, checkpoint, skip=RESUME_ONLY if verify == "weights" else set())
    return checkpoint


def _verify_metadata(path: Path) -> None:
    """Compare all but the tensors with its CRC-32, which torch.save writes and torch.load ignores."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    archive.read(name)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UNZIPPING as error:
        raise DamagedError(f"{path} is cut off, damaged or no checkpoint at all") from error


def _verify_tensors(path: Path, checkpoint: dict[str, Any], skip: set[str]) -> None:
    for part, expected in checkpoint.get(CHECKSUMS, {}).items():  # older versions wrote none
        if part in checkpoint and part not in skip and checksum(checkpoint[part]) != expected:
            raise DamagedError(
                f"{path} is damaged: its {part} does not match its checksum (if it was changed on purpose, delete its "
                f"key {CHECKSUMS})"
            )


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with its checksums.

    Raises:
        OSError: If the file can't be written; the old one is left.
    """
    checkpoint = checkpoint | {CHECKSUMS: {part: checksum(value) for part, value in checkpoint.items()}}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's own words for a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def restore_last(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint to resume from; replace a damaged `last.ckpt` by the newest intact checkpoint of its run.

    Raises:
        ValueError: If the checkpoint is damaged and can't be replaced.
    """
    try:
        return read(checkpoint, "all", mmap=False)
    except DamagedError:
        if not is_last(checkpoint):
            raise
    steps = {}
    for other in set(checkpoint.parent.glob("*.ckpt")) - {checkpoint}:
        with suppress(ValueError, OSError):
            stored = read(other, "all")
            steps[other] = stored["global_step"] if "optimizer_states" in stored else -1
    # Of two at the same step, previous.ckpt: best.ckpt was saved before schedulers had their turn.
    newest = max(steps, key=lambda path: (steps[path], path.name == "previous.ckpt"), default=checkpoint)
    if steps.get(newest, -1) < 0:
        raise DamagedError(f"{checkpoint} is damaged, and its run has no intact checkpoint to resume from")
    with atomic_write(checkpoint) as temporary:
        shutil.copyfile(newest, temporary)
    logger.warning(f"{checkpoint} is damaged: resuming from {newest.name}, saved after step {steps[newest]}")
    return read(checkpoint, "all", mmap=False)
