"""Checkpoint plug-ins for Lightning that write atomically and verify what they read."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy
from typing_extensions import override

from kindling.runs.checkpoints import read_checkpoint, save
from kindling.runs.folders import RUNS, run_folder_of, written_checkpoints

Loaded = tuple[Path, dict[str, Any]]  # path and contents of a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints next to their target and renames them; verifies them on loading.

    Lightning's plug-in writes to `$TMPDIR` and moves the file, which is not atomic across file systems, and ignores a
    PermissionError.

    Args:
        run_folder: The run folder; saving fails if it has been deleted.
        loaded: A checkpoint that has been read already; its first load does not read the file again.
    """

    def __init__(self, run_folder: Path | None = None, loaded: Loaded | None = None) -> None:
        self.run_folder = run_folder
        self._loaded = loaded
        self._saved: Path | None = None
        self._newest_other: float | None = None  # modification time of the newest checkpoint of other runs

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if self.run_folder and not self.run_folder.is_dir():
            raise FileNotFoundError(f"can't write {path}: the run folder {self.run_folder} was deleted during training")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save(checkpoint, Path(path))
        self._saved = Path(path)
        self._make_newest(Path(path))

    def _make_newest(self, saved: Path) -> None:
        """Set the modification time after those of other runs, even if the clock was set back: `last` is the newest."""
        if self._newest_other is None:
            others = [path for path in written_checkpoints(RUNS) if run_folder_of(path) != self.run_folder]
            self._newest_other = others[-1].stat().st_mtime if others else 0.0
        if saved.stat().st_mtime < self._newest_other:
            os.utime(saved, (self._newest_other + 1, self._newest_other + 1))

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        loaded, self._loaded = self._loaded, None  # no reference kept: Lightning frees it after restoring
        if loaded and Path(path).resolve() == loaded[0].resolve():
            return loaded[1]
        return read_checkpoint(Path(path), mmap=False)

    @override
    def remove_checkpoint(self, path: _PATH) -> None:
        # ModelCheckpoint compares paths as strings; if one folder has two names, it would remove the file just saved.
        if self._saved and os.path.exists(path) and os.path.exists(self._saved) and os.path.samefile(path, self._saved):
            return
        super().remove_checkpoint(path)


class CheckedCheckpointIO(_WrappingCheckpointIO):
    """Wraps another plug-in and raises an error if it has not written the file: some ignore a PermissionError."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        before = _identity(path)
        super().save_checkpoint(checkpoint, path, storage_options)
        if "://" not in str(path) and _identity(path) in (None, before):
            raise OSError(f"{type(self.checkpoint_io).__name__} has not written {path}: check its permissions")


def _identity(path: _PATH) -> tuple[int, int, int] | None:
    """Return values that change when a file is written; None if there is no file."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def write_atomically(strategy: Strategy, run_folder: Path | None, loaded: Loaded | None = None) -> None:
    """Make a strategy use `AtomicCheckpointIO`, or wrap the plug-in that a user has chosen in `CheckedCheckpointIO`."""
    chosen = strategy._checkpoint_io  # reading the property would create Lightning's default
    if type(strategy).checkpoint_io is not Strategy.checkpoint_io:
        return
    if isinstance(chosen, _WrappingCheckpointIO):
        chosen.checkpoint_io = AtomicCheckpointIO(run_folder, loaded)  # ignored if it wraps one already
    elif chosen is None or type(chosen) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO(run_folder, loaded)
    else:
        strategy.checkpoint_io = CheckedCheckpointIO(chosen)
