"""Checkpoint files: written in one piece, with checksums, and verified when they are read."""

import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from lzma import LZMAError
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from typing_extensions import override

from kindling.console import say
from kindling.contents import check_content
from kindling.runs import RUNS, is_last, run_of, whole_file, written_checkpoints

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
ROW = 4096  # words of a tensor that share a weight in its checksum
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


def checksum(value: Any) -> int:
    """Return a checksum of all tensors in nested dictionaries and lists, in their order; 0 where there is none.

    The sum of a tensor's bytes, eight at a time, in rows with different weights: no single altered byte goes unnoticed,
    nor a block that moved, at the speed of memory.
    """
    total = 0
    for weight, tensor in zip(count(1, step=2), _tensors(value), strict=False):  # odd: each bit counts
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        words = data[: len(data) // 8 * 8]
        if words.storage_offset() % 8:
            words = words.clone()
        rest = bytes(data[len(words) :].tolist())
        numbers = words.view(torch.int64)
        whole = len(numbers) // ROW * ROW
        rows = torch.cat([numbers[:whole].view(-1, ROW).sum(dim=1), numbers[whole:].sum().view(1)])
        weighted = int((rows * torch.arange(1, 2 * len(rows), 2)).sum())
        total += weight * (weighted + int.from_bytes(rest, "little"))
    return total % 2**64


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints beside their target and rename them; verify them when they are loaded.

    Lightning's own writes to `$TMPDIR` and moves the file, which is not atomic from one file system to another, and
    ignores a PermissionError.

    Args:
        run: The run folder; a checkpoint in it is not written where the folder has been deleted.
    """

    def __init__(self, run: Path | None = None) -> None:
        self.run = run
        self._saved: Path | None = None
        self._others: float | None = None  # when the newest checkpoint of the other runs was written

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if self.run and not self.run.is_dir():
            raise FileNotFoundError(f"can't write {path}: the run folder {self.run} was deleted while it trained")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save(checkpoint, Path(path))
        self._saved = Path(path)
        self._keep_newest(Path(path))

    def _keep_newest(self, saved: Path) -> None:
        """Date a checkpoint after those of earlier runs where the clock was set back: `last` is of the newest run."""
        if self._others is None:
            others = [path for path in written_checkpoints(RUNS) if run_of(path) != self.run]
            self._others = others[-1].stat().st_mtime if others else 0.0
        if saved.stat().st_mtime < self._others:
            os.utime(saved, (self._others + 1, self._others + 1))

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return read(Path(path), "all", mmap=False)

    @override
    def remove_checkpoint(self, path: _PATH) -> None:
        # ModelCheckpoint compares paths as texts: one folder under two names, and it removes what it has just saved.
        if self._saved and os.path.exists(path) and os.path.exists(self._saved) and os.path.samefile(path, self._saved):
            return
        super().remove_checkpoint(path)


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with its checksums.

    Raises:
        OSError: If the file can't be written; the old one is left.
    """
    checkpoint = checkpoint | {CHECKSUMS: {part: checksum(value) for part, value in checkpoint.items()}}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's own words for a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class CheckedCheckpointIO(_WrappingCheckpointIO):
    """Have another plugin write the checkpoints, and fail at once where it has not: some ignore a PermissionError."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        before = _identity(path)
        super().save_checkpoint(checkpoint, path, storage_options)
        if "://" not in str(path) and _identity(path) in (None, before):
            raise OSError(f"{path} has not been written by {type(self.checkpoint_io).__name__}: may it be written?")


def _identity(path: _PATH) -> tuple[int, int, int] | None:
    """What changes when a file is written; None where there is none."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def write_atomically(strategy: Strategy, run: Path | None) -> None:
    """Have a strategy write its checkpoints with `AtomicCheckpointIO`, or check those of a plugin that was chosen."""
    chosen = strategy._checkpoint_io  # to read the property would choose Lightning's
    if type(strategy).checkpoint_io is not Strategy.checkpoint_io:
        return
    if isinstance(chosen, _WrappingCheckpointIO):
        chosen.checkpoint_io = AtomicCheckpointIO(run)  # which it heeds where it wraps none yet
    elif chosen is None or type(chosen) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO(run)
    else:
        strategy.checkpoint_io = CheckedCheckpointIO(chosen)


def restore_last(checkpoint: Path) -> None:
    """Put the newest intact checkpoint of a run in the place of its `last.ckpt` where that is damaged.

    Raises:
        ValueError: If the checkpoint is damaged and can't be replaced.
    """
    try:
        read(checkpoint, "all")
        return
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
    with whole_file(checkpoint) as temporary:
        shutil.copyfile(newest, temporary)
    say(f"{checkpoint} is damaged: resuming from {newest.name}, saved after step {steps[newest]}")
