"""Check that a file is a checkpoint of Kindling, and name it in errors that occur while it is restored."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kindling.utils.text import join_names, shorten

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


def check_content(path: Path, checkpoint: Any) -> None:
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


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Replace an error of Lightning, while it restores a checkpoint, with one that names the file.

    Raises:
        ValueError: In place of an error such as KeyError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if path is None or not any(Path(frame.filename).name == RESTORING_FILE for frame in frames):
            raise
        reason = shorten(f"{type(error).__name__}: {error}", 100)
        raise ValueError(f"{path} was modified or is of another version: it can't be restored ({reason})") from error
