"""What a checkpoint must hold to be used, and one line where it was altered."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from kindling.utils.text import join_names, shorten

RESTORES = "checkpoint_connector.py"  # of Lightning

TYPES: dict[str, type] = {
    **{"hyper_parameters": dict, "datamodule_hyper_parameters": dict, "state_dict": dict, "callbacks": dict},
    **{"loops": dict, "optimizer_states": list, "lr_schedulers": list, "checksums": dict, "plugins": dict},
    **{"global_step": int, "epoch": int, "schedule_start": int},
}
FITTED_TYPES: dict[str, type] = {"classes": list, "columns": list, "left_out": dict}
MODEL_TYPES: dict[str, type] = {"_class_path": str, "num_classes": int, "input_shape": list, "class_names": list}
# What was learned of a column of a table; older checkpoints lack some of it.
COLUMN_TYPES: dict[str, type] = {
    **{"name": str, "kind": str, "values": list, "classes": list, "known": list, "encodings": list, "prior": list},
    **{"center": float, "scale": float, "median": float, "limit": float, "range": list, "decimal": str},
    **{"units": list, "factors": dict, "missing": bool, "missing_values": list, "day_first": bool},
}
EPOCHS = ("fit_loop", "epoch_progress", "current", "processed")  # where the loops say how many are complete
STOPPERS = ("RunEarlyStopping{", "EarlyStopping{")  # keys of states; the latter in checkpoints of older versions
NEEDED = {"number": ("center", "scale", "median", "decimal"), "date": ("center", "scale", "median")}


def check_content(path: Path, checkpoint: Any) -> None:
    """Check that what Kindling itself reads of a checkpoint is there, and of the right types.

    Raises:
        ValueError: If it is not: the file is another program's, or was altered.
    """
    about = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if not isinstance(about, dict) or "_class_path" not in about:
        raise ValueError(f"{path} is no checkpoint of Kindling: it does not say which model it holds")
    data = _dict(checkpoint.get("datamodule_hyper_parameters"))
    fitted = checkpoint.get(str(data.get("_class_path")).rpartition(".")[2])
    columns = _dict(fitted).get("columns")
    columns = columns if isinstance(columns, list | tuple) else []
    states = checkpoint.get("optimizer_states")
    states = states if isinstance(states, list | tuple) else []
    parts: list[tuple[dict[str, Any], dict[str, type]]]
    parts = [
        (checkpoint, TYPES),
        ({"data": fitted}, {"data": dict}),
        (about, MODEL_TYPES),
        (data, {"_class_path": str}),
    ]
    parts += [(_dict(fitted), FITTED_TYPES)]
    parts += [({"columns": item}, {"columns": dict}) for item in columns]
    parts += [(_dict(item), COLUMN_TYPES) for item in columns]
    parts += [({"optimizer_states": item}, {"optimizer_states": dict}) for item in states]
    for held, kinds in parts:
        for name, kind in kinds.items():
            if not _is(held.get(name), kind):
                found = shorten(repr(held[name]), 60)
                raise ValueError(f"{path} is no checkpoint of Kindling, or was altered: its {name} is {found}")
    check_progress(path, checkpoint)
    names = about.get("class_names")
    if names and len(names) != about.get("num_classes", len(names)):
        raise ValueError(f"{path} was altered: it has {len(names)} class_names for {about['num_classes']} classes")
    if columns and (lacking := [name for name in ("classes", "left_out") if fitted.get(name) is None]):
        raise ValueError(f"{path} was altered: its table has no {lacking[0]}")
    if not _is_version(checkpoint.get("pytorch-lightning_version")):
        version = shorten(repr(checkpoint["pytorch-lightning_version"]), 60)
        raise ValueError(f"{path} was altered: its pytorch-lightning_version is {version}")
    for column in columns:
        needed = ("name", "kind", *NEEDED.get(column.get("kind"), ()))
        if lacking := [name for name in needed if column.get(name) is None]:
            raise ValueError(f"{path} was altered: column {column.get('name')} lacks {join_names(lacking)}")


def check_progress(path: Path, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint holds the weights, and how far it was trained.

    Raises:
        ValueError: If it does not.
    """
    needed = ("state_dict", "global_step", *(["callbacks"] if "optimizer_states" in checkpoint else []))
    if lacking := [name for name in needed if checkpoint.get(name) is None]:
        raise ValueError(f"{path} was altered: it lacks {join_names(lacking)}")
    value = checkpoint.get("loops")
    for name in EPOCHS if value is not None else ():
        value = _dict(value).get(name)
    if checkpoint.get("loops") is not None and not (value is not None and _is(value, int)):
        raise ValueError(f"{path} was altered: its loops lack {'.'.join(EPOCHS)}, the number of epochs")
    for name, state in (checkpoint.get("callbacks") or {}).items():
        waited = _dict(state).get("wait_count")
        if str(name).startswith(STOPPERS) and not isinstance(waited, int):
            raise ValueError(f"{path} was altered: the state of {shorten(str(name), 60)} lacks wait_count")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is(value: Any, kind: type) -> bool:
    """Whether a value of a checkpoint, if there is one, has a type; numbers count, and a tuple is a list."""
    if kind is int:
        return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return value is None or isinstance(value, (list, tuple) if kind is list else kind)


def _is_version(value: Any) -> bool:
    """Whether Lightning can compare a stored version with its own; without one there is nothing to compare."""
    try:
        return value is None or bool(Version(value))
    except (InvalidVersion, TypeError):
        return False


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Name the checkpoint where Lightning fails to restore the state in it, which only Lightning knows to read.

    Raises:
        ValueError: In place of an error such as KeyError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if path is None or not any(Path(frame.filename).name == RESTORES for frame in frames):
            raise
        reason = shorten(f"{type(error).__name__}: {error}", 100)
        raise ValueError(f"{path} was altered or is of another version: it can't be restored ({reason})") from error
