"""Validation of the keys and types in a checkpoint."""

import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from kindling.utils.text import join_names, shorten

RESTORING_FILE = "checkpoint_connector.py"  # Lightning's module that restores a checkpoint

TYPES: dict[str, type] = {
    **{"hyper_parameters": dict, "datamodule_hyper_parameters": dict, "state_dict": dict, "callbacks": dict},
    **{"loops": dict, "optimizer_states": list, "lr_schedulers": list, "checksums": dict, "plugins": dict},
    **{"global_step": int, "epoch": int, "schedule_start": int, "sample_shapes": list},
    **{"decision_threshold": dict},
}
THRESHOLD_TYPES: dict[str, type] = {"value": float, "positive": int, "metric": str, "score": float, "curve": list}
FITTED_TYPES: dict[str, type] = {
    **{"classes": list, "target": dict, "columns": list, "left_out": dict, "members": int, "keys": list}
}
MODEL_TYPES: dict[str, type] = {"_class_path": str, "num_classes": int, "input_shape": list, "class_names": list}
# Fitted state of a table's column; older checkpoints lack some of these.
COLUMN_TYPES: dict[str, type] = {
    **{"name": str, "kind": str, "values": list, "classes": list, "known": list, "encodings": list, "prior": list},
    **{"center": float, "scale": float, "median": float, "limit": float, "range": list, "decimal": str},
    **{"units": list, "factors": dict, "missing": bool, "missing_values": list, "day_first": bool, "member": int},
}
ITEM_TYPES: dict[str, type | tuple[type, ...]] = {"units": str, "missing_values": str, "range": (int, float)}
EPOCHS = ("fit_loop", "epoch_progress", "current", "processed")  # keys of `loops`: completed epochs
STOPPERS = ("RunEarlyStopping{", "EarlyStopping{")  # prefixes of state keys; the latter in older versions
REQUIRED_BY_KIND = {"number": ("center", "scale", "median", "decimal"), "date": ("center", "scale", "median")}


def check_content(path: Path, checkpoint: Any) -> None:
    """Check that a checkpoint has all keys that Kindling reads, with values of the right types.

    Raises:
        ValueError: If not: another program wrote the file, or it was modified.
    """
    model = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if not isinstance(model, dict) or "_class_path" not in model:
        raise ValueError(f"{path} is not a Kindling checkpoint: it has no model class in its hyperparameters")
    data = _as_dict(checkpoint.get("datamodule_hyper_parameters"))
    fitted = checkpoint.get(str(data.get("_class_path")).rpartition(".")[2])
    columns = _as_dict(fitted).get("columns")
    columns = [*columns] if isinstance(columns, list | tuple) else []
    is_table = bool(columns)
    threshold = _as_dict(checkpoint.get("decision_threshold"))
    if (target := _as_dict(fitted).get("target")) is not None:  # a numeric target, stored like a column
        columns.append(target)
    states = checkpoint.get("optimizer_states")
    states = states if isinstance(states, list | tuple) else []
    typed_parts: list[tuple[dict[str, Any], dict[str, type]]] = [
        (checkpoint, TYPES),
        ({"data": fitted}, {"data": dict}),
        (model, MODEL_TYPES),
        (data, {"_class_path": str}),
        (_as_dict(fitted), FITTED_TYPES),
        (threshold, THRESHOLD_TYPES),
        *((_as_dict(column), COLUMN_TYPES) for column in columns),
    ]
    typed_parts += [({"columns": column}, {"columns": dict}) for column in columns]
    typed_parts += [({"optimizer_states": state}, {"optimizer_states": dict}) for state in states]
    for part, types in typed_parts:
        for name, kind in types.items():
            if not _has_type(part.get(name), kind):
                found = shorten(repr(part[name]), 60)
                raise ValueError(f"{path} is not a Kindling checkpoint, or was modified: its {name} is {found}")
    if threshold and None in [threshold.get(name) for name in THRESHOLD_TYPES]:
        raise ValueError(f"{path} was modified: its decision_threshold is incomplete")
    if threshold and not _is_curve(threshold["curve"]):
        found = shorten(repr(threshold["curve"]), 60)
        raise ValueError(f"{path} was modified: its decision_threshold has the curve {found}")
    check_progress(path, checkpoint)
    names = model.get("class_names")
    if names and len(names) != model.get("num_classes", len(names)):
        raise ValueError(f"{path} was modified: it has {len(names)} class_names for {model['num_classes']} classes")
    required_of_table = ("classes" if target is None else "target", "left_out")
    if is_table and (missing := [name for name in required_of_table if fitted.get(name) is None]):
        raise ValueError(f"{path} was modified: its table has no {missing[0]}")
    if not _is_version(checkpoint.get("pytorch-lightning_version")):
        version = shorten(repr(checkpoint["pytorch-lightning_version"]), 60)
        raise ValueError(f"{path} was modified: its pytorch-lightning_version is {version}")
    for column in columns:
        required = ("name", "kind", *REQUIRED_BY_KIND.get(column.get("kind"), ()))
        if missing := [name for name in required if column.get(name) is None]:
            raise ValueError(f"{path} was modified: column {column.get('name')} lacks {join_names(missing)}")
        for name, item_type in ITEM_TYPES.items():
            if not all(isinstance(item, item_type) for item in column.get(name) or ()):
                found = shorten(repr(column[name]), 60)
                raise ValueError(f"{path} was modified: column {column['name']} has {name} {found}")
    if target is not None and target["kind"] != "number":
        raise ValueError(f"{path} was modified: its target is of the kind {shorten(repr(target['kind']), 60)}")


def check_progress(path: Path, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint has the weights and the progress of the training.

    Raises:
        ValueError: If not.
    """
    required = ("state_dict", "global_step", *(["callbacks"] if "optimizer_states" in checkpoint else []))
    if missing := [name for name in required if checkpoint.get(name) is None]:
        raise ValueError(f"{path} was modified: it lacks {join_names(missing)}")
    if checkpoint.get("loops") is not None:
        value = checkpoint["loops"]
        for name in EPOCHS:
            value = _as_dict(value).get(name)
        if value is None or not _has_type(value, int):
            raise ValueError(f"{path} was modified: its loops lack {'.'.join(EPOCHS)}, the number of epochs")
    for name, state in (checkpoint.get("callbacks") or {}).items():
        wait_count = _as_dict(state).get("wait_count")
        if str(name).startswith(STOPPERS) and not isinstance(wait_count, int):
            raise ValueError(f"{path} was modified: the state of {shorten(str(name), 60)} lacks wait_count")


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _has_type(value: Any, kind: type) -> bool:
    """Return whether a value is None or has a type: an int must not be negative, and a tuple counts as a list."""
    if kind is int:
        return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return value is None or isinstance(value, (list, tuple) if kind is list else kind)


def _is_curve(values: Sequence[Any]) -> bool:
    """Return whether a list can be the curve of a decision threshold."""
    from kindling.utils.decision import CURVE_STEPS  # imports torch

    are_finite = (isinstance(value, int | float) and math.isfinite(value) for value in values)
    return len(values) == CURVE_STEPS + 1 and all(are_finite)


def _is_version(value: Any) -> bool:
    """Return whether a stored version is None or valid, so that Lightning can compare it with its own."""
    try:
        return value is None or bool(Version(value))
    except (InvalidVersion, TypeError):
        return False


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
