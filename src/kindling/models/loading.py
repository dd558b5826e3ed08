"""Loads models from checkpoints, and reads the specs from which they are built."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from kindling.models.task import BaseTask
from kindling.runs.checkpoints import read_checkpoint
from kindling.runs.folders import RUNS, surroundings_of
from kindling.runs.signatures import is_own_checkpoint, plugin_sources
from kindling.runs.untrusted_config import check_class_paths, check_parts
from kindling.runs.untrusted_files import check_functions


def read_model_spec(path: Path, stored: dict[str, Any] | None = None) -> tuple[str, dict[str, Tensor]]:
    """Return the spec of the model in a checkpoint (its class and arguments as JSON), and its weights.

    The spec is a string so that it can be an argument of another model: jsonargparse would turn a dictionary into an
    object, and a class named "0" into a number.

    Args:
        path: The checkpoint.
        stored: Contents of the checkpoint, if it has been read already.

    Raises:
        ValueError: If it was not written by Kindling, or the model has not been trained.
    """
    stored = stored or read_checkpoint(path)
    check_trained(path, stored)
    hyper_parameters = stored["hyper_parameters"]
    check_class_paths(hyper_parameters, surroundings_of(path), plugins=plugin_sources(stored, path))
    check_parts(hyper_parameters, path)
    if not is_own_checkpoint(stored, path):
        check_functions(hyper_parameters, (), path)
    unused = ("optimizer", "lr_scheduler", "_class_path", "_instantiator")
    arguments = {name: value for name, value in hyper_parameters.items() if name not in unused}
    try:
        spec = json.dumps({"model": hyper_parameters["_class_path"], "arguments": arguments})
    except TypeError as error:
        raise ValueError(f"{path} was modified: an argument of its model is not plain ({error})") from error
    return spec, stored["state_dict"]


def check_trained(path: Path, stored: dict[str, Any]) -> None:
    """Raise ValueError if a checkpoint contains only initial weights."""
    if stored["global_step"] == 0 and not stored.get("trained_before"):
        raise ValueError(
            f"{path} has not been trained, so its weights are random: choose a checkpoint of a trained model"
        )


def is_model_spec(text: str) -> bool:
    """Return whether a string is a model spec rather than the path of a checkpoint."""
    return text.startswith("{")


def build_from_spec(spec: str) -> BaseTask:
    """Return the model that a spec describes, with initial weights; raise ValueError if that is not possible."""
    config = json.loads(spec)
    check_class_paths(config, RUNS)
    module, _, name = config["model"].rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the model of the checkpoint, {config['model']}, can't be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseTask)):  # no other code that a checkpoint names may run
        raise ValueError(
            f"{name} is not one of Kindling's tasks: derive it from kindling.BaseTask to export it, or from "
            f"kindling.ClassificationTask to serve or load it; to use it in Python, call {name}.load_from_checkpoint"
        )
    try:
        return cls(**config["arguments"])
    except (TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{name} does not accept the arguments stored in the checkpoint: {error}") from error


def load_model(path: Path, stored: dict[str, Any] | None = None) -> BaseTask:
    """Return the trained model of a checkpoint, on the CPU, in evaluation mode; see `read_model_spec`.

    Raises:
        ValueError: If it was not written by Kindling, the model has not been trained, or its class has changed since.
    """
    stored = stored or read_checkpoint(path)
    spec, weights = read_model_spec(path, stored)
    model = build_from_spec(spec)
    model.restore_learned(stored)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not match the current class {type(model).__name__}: {reason}") from error
    return model.eval()
