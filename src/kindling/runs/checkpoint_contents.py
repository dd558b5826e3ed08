"""Validation of the keys and types in a checkpoint."""

import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from kindling.runs.data_contents import check_data
from kindling.runs.stored_types import as_dict, check_types, has_type, quote
from kindling.utils.text import join_names, shorten

RESTORING_FILE = "checkpoint_connector.py"  # Lightning's module that restores a checkpoint

TYPES: dict[str, type] = {
    **{"hyper_parameters": dict, "datamodule_hyper_parameters": dict, "state_dict": dict, "callbacks": dict},
    **{"loops": dict, "optimizer_states": list, "lr_schedulers": list, "checksums": dict, "plugins": dict},
    **{"global_step": int, "epoch": int, "schedule_start": int, "sample_shapes": list},
    **{"decision_threshold": dict, "softmax_temperature": float},
}
THRESHOLD_TYPES: dict[str, type] = {"value": float, "positive": int, "metric": str, "score": float, "curve": list}
MODEL_TYPES: dict[str, type] = {"_class_path": str, "num_classes": int, "input_shape": list, "class_names": list}
EPOCHS = ("fit_loop", "epoch_progress", "current", "processed")  # keys of `loops`: completed epochs
STEPPED = "_batches_that_stepped"  # a counter in `loops`, outside of progress
STOPPERS = ("RunEarlyStopping{", "EarlyStopping{")  # prefixes of state keys; the latter in older versions


def check_content(path: Path, checkpoint: Any) -> None:
    """Check that a checkpoint has all keys that Kindling reads, with values of the right types.

    Raises:
        ValueError: If not: another program wrote the file, or it was modified.
    """
    model = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if not isinstance(model, dict) or model.get("_class_path") is None:
        raise ValueError(f"{path} is not a Kindling checkpoint: it has no model class in its hyperparameters")
    data = as_dict(checkpoint.get("datamodule_hyper_parameters"))
    data_module = str(data.get("_class_path")).rpartition(".")[2]
    learned, threshold = checkpoint.get(data_module), as_dict(checkpoint.get("decision_threshold"))
    check_types(path, checkpoint, TYPES)
    check_types(path, {"data": learned}, {"data": dict})
    check_types(path, model, MODEL_TYPES)
    check_types(path, data, {"_class_path": str})
    check_types(path, threshold, THRESHOLD_TYPES)
    if not all(map(_is_shape, checkpoint.get("sample_shapes") or ())):
        raise ValueError(f"{path} was modified: its sample_shapes are {quote(checkpoint['sample_shapes'])}")
    for state in checkpoint.get("optimizer_states") or ():
        check_types(path, {"optimizer_states": state}, {"optimizer_states": dict})
    if threshold and None in [threshold.get(name) for name in THRESHOLD_TYPES]:
        raise ValueError(f"{path} was modified: its decision_threshold is incomplete")
    if threshold and not _is_curve(threshold["curve"]):
        raise ValueError(f"{path} was modified: its decision_threshold has the curve {quote(threshold['curve'])}")
    check_progress(path, checkpoint)
    if not 0 < checkpoint.get("softmax_temperature", 1.0) < math.inf:
        raise ValueError(f"{path} was modified: its softmax_temperature is {checkpoint['softmax_temperature']}")
    names = model.get("class_names")
    if names and len(names) != model.get("num_classes", len(names)):
        raise ValueError(f"{path} was modified: it has {len(names)} class_names for {model['num_classes']} classes")
    check_data(path, data_module, as_dict(learned))
    if not _is_version(checkpoint.get("pytorch-lightning_version")):
        version = quote(checkpoint["pytorch-lightning_version"])
        raise ValueError(f"{path} was modified: its pytorch-lightning_version is {version}")


def check_progress(path: Path, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint has the weights and the progress of the training.

    Raises:
        ValueError: If not.
    """
    required = ("state_dict", "global_step", *(["callbacks"] if "optimizer_states" in checkpoint else []))
    empty = [name for name in TYPES if name != "decision_threshold" and checkpoint.get(name, 0) is None]
    if missing := [*(name for name in required if name not in checkpoint), *empty]:
        raise ValueError(f"{path} was modified: it lacks {join_names(missing)}")
    if "loops" in checkpoint:
        value = checkpoint["loops"]
        for name in EPOCHS:
            value = as_dict(value).get(name)
        if value is None or not has_type(value, int):
            raise ValueError(f"{path} was modified: its loops lack {'.'.join(EPOCHS)}, the number of epochs")
        _check_counters(path, checkpoint["loops"], "loops")
    for name, state in checkpoint.get("callbacks", {}).items():
        wait_count = as_dict(state).get("wait_count")
        if str(name).startswith(STOPPERS) and not isinstance(wait_count, int):
            raise ValueError(f"{path} was modified: the state of {shorten(str(name), 60)} lacks wait_count")


def _check_counters(path: Path, value: dict[str, Any], name: str) -> None:
    """Check that the counters of a part of the loops are numbers: Lightning would find out only when it adds to them.

    Raises:
        ValueError: If not.
    """
    for key, inner in value.items():
        is_counter = key == STEPPED or name.endswith((".total", ".current"))
        if isinstance(inner, dict) and not is_counter:
            _check_counters(path, inner, f"{name}.{key}")
        elif is_counter and not (isinstance(inner, int) and (key == STEPPED or has_type(inner, int))):
            raise ValueError(f"{path} was modified: its {name}.{key} is {quote(inner)}")


def _is_shape(value: Any) -> bool:
    """Return whether a value is the shape of a tensor."""
    return isinstance(value, list | tuple) and all(isinstance(size, int) for size in value)


def _is_curve(values: Sequence[Any]) -> bool:
    """Return whether a list can be the curve of a decision threshold."""
    from kindling.utils.decision_threshold import CURVE_STEPS  # imports torch

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
