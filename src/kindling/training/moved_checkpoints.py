"""Checkpoints of a run that was moved or copied, and the previous checkpoint."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from kindling.utils.files import atomic_write

logger = logging.getLogger(__name__)


def keep_previous(path: Path) -> None:
    """Keep a checkpoint that is about to be replaced as `previous.ckpt`."""
    previous = path.with_name("previous.ckpt")
    with atomic_write(previous) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:  # no hard links; copied rather than moved, so that `path` exists at any moment
            shutil.copyfile(path, temporary)


def save_inside_copy(callback: ModelCheckpoint, stored: str, run_folder: Path, is_copy: bool) -> None:
    """Make a user's ModelCheckpoint save inside a copied run, because a folder outside of it belongs to the original.

    Args:
        callback: A ModelCheckpoint of the resumed run; its `dirpath` is changed in place.
        stored: Its `dirpath` in the checkpoint from which the run resumes.
        run_folder: The run folder.
        is_copy: Whether the run was last trained in another folder.
    """
    folder, ours = Path(callback.dirpath or run_folder), run_folder.resolve()
    if "://" in str(callback.dirpath) or ours in (resolved := folder.resolve(), *resolved.parents):
        return
    inside = ours / "user" / folder.name
    was_inside = Path(stored).parts[-2:] == inside.parts[-2:]
    if was_inside or (is_copy and stored == str(folder)):
        callback.dirpath = str(inside)
        shown = run_folder / "user" / folder.name
        logger.warning(f"ModelCheckpoint: {folder} belongs to the original of this run; saving to {shown}")


def move_best(state: dict[str, Any], folder: str, is_same_run: bool) -> None:
    """Update the paths in the state of a ModelCheckpoint, which Lightning stores and compares as strings.

    If the folder was moved, copied or reached by another path, ModelCheckpoint would forget its best score or delete
    the best checkpoint as outdated. A new run does not own the files of the run from which it starts.

    Args:
        state: The state of the ModelCheckpoint; changed in place.
        folder: Current folder of its checkpoints.
        is_same_run: Whether the run resumes in its folder or in a copy of it.
    """
    before = state["dirpath"]
    if not is_same_run:
        state.update(dirpath="", best_model_path="")
        return
    paths = state["best_k_models"]
    moved = {path: path if before == folder else os.path.join(folder, os.path.relpath(path, before)) for path in paths}
    moved = {path: new for path, new in moved.items() if _is_in(new, folder)}
    state["dirpath"] = folder
    if state["kth_best_model_path"] not in moved:  # the next to be replaced: keep only the best
        moved = {path: new for path, new in moved.items() if path == state["best_model_path"]}
        state["kth_best_model_path"] = next(iter(moved), "")
    state["best_k_models"] = {new: paths[path] for path, new in moved.items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved.get(state[key], "")
    if not state["best_model_path"]:
        state["best_model_score"] = None


def _is_in(path: str, folder: str) -> bool:
    """Return whether a file exists within a folder; ModelCheckpoint must not delete others."""
    if "://" in folder:
        return path.startswith(folder)
    return os.path.exists(path) and Path(folder).absolute() in Path(os.path.abspath(path)).parents
