"""How Lightning writes and reads checkpoints: in one piece, and verified."""

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

from kindling.runs.checkpoints import read, save
from kindling.runs.folders import RUNS, run_folder_of, written_checkpoints

Loaded = tuple[Path, dict[str, Any]]  # the path of a checkpoint and what it holds


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints beside their target and rename them; verify them when they are loaded.

    Lightning's own writes to `$TMPDIR` and moves the file, which is not atomic from one file system to another, and
    ignores a PermissionError.

    Args:
        run: The run folder; a checkpoint in it is not written where the folder has been deleted.
        loaded: A checkpoint that has been read already: it is not read again when it is loaded for the first time.
    """

    def __init__(self, run: Path | None = None, loaded: Loaded | None = None) -> None:
        self.run = run
        self._loaded = loaded
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
            others = [path for path in written_checkpoints(RUNS) if run_folder_of(path) != self.run]
            self._others = others[-1].stat().st_mtime if others else 0.0
        if saved.stat().st_mtime < self._others:
            os.utime(saved, (self._others + 1, self._others + 1))

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        loaded, self._loaded = self._loaded, None  # the caller owns it: Lightning frees it when all is restored
        if loaded and Path(path).resolve() == loaded[0].resolve():
            return loaded[1]
        return read(Path(path), "all", mmap=False)

    @override
    def remove_checkpoint(self, path: _PATH) -> None:
        # ModelCheckpoint compares paths as texts: one folder under two names, and it removes what it has just saved.
        if self._saved and os.path.exists(path) and os.path.exists(self._saved) and os.path.samefile(path, self._saved):
            return
        super().remove_checkpoint(path)


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


def write_atomically(strategy: Strategy, run: Path | None, loaded: Loaded | None = None) -> None:
    """Have a strategy write its checkpoints with `AtomicCheckpointIO`, or check those of a plugin that was chosen."""
    chosen = strategy._checkpoint_io  # to read the property would choose Lightning's
    if type(strategy).checkpoint_io is not Strategy.checkpoint_io:
        return
    if isinstance(chosen, _WrappingCheckpointIO):
        chosen.checkpoint_io = AtomicCheckpointIO(run, loaded)  # which it heeds where it wraps none yet
    elif chosen is None or type(chosen) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO(run, loaded)
    else:
        strategy.checkpoint_io = CheckedCheckpointIO(chosen)
