"""Models out of checkpoints: as a whole, or what it takes to build one again."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from kindling.models.classification import ClassificationTask
from kindling.models.task import BaseTask
from kindling.runs.find import read_checkpoint
from kindling.runs.folders import RUNS, run_folder_of
from kindling.runs.foreign import check_functions
from kindling.runs.trust import check_classes, check_parts, is_own_checkpoint, plugin_sources


def read_model_spec(path: Path, stored: dict[str, Any] | None = None) -> tuple[str, dict[str, Tensor]]:
    """What it takes to build the model of a checkpoint, its class and arguments as JSON; and its weights.

    As text it is one argument of another model, which jsonargparse leaves as it is: of a dictionary it would make an
    object, and of a class named "0" a number.

    Args:
        path: The checkpoint.
        stored: What it holds, where it has been read already.

    Raises:
        ValueError: If it is no checkpoint of Kindling, or has not been trained.
    """
    stored = stored or read_checkpoint(path)
    check_trained(path, stored)
    hyper_parameters = stored["hyper_parameters"]
    check_classes(hyper_parameters, run_folder_of(path), plugins=plugin_sources(stored, path))
    check_parts(hyper_parameters, path)
    if not is_own_checkpoint(stored, path):
        check_functions(hyper_parameters, (), path)
    unused = ("optimizer", "lr_scheduler", "_class_path", "_instantiator")
    arguments = {name: value for name, value in hyper_parameters.items() if name not in unused}
    return json.dumps({"model": hyper_parameters["_class_path"], "arguments": arguments}), stored["state_dict"]


def check_trained(path: Path, stored: dict[str, Any]) -> None:
    """Raises ValueError where the weights of a checkpoint are those that the model began with."""
    if stored["global_step"] == 0 and not stored.get("trained_before"):
        raise ValueError(f"{path} has not been trained: its weights are random")


def is_model_spec(text: str) -> bool:
    """Whether a text describes a model, and is not the place of a checkpoint."""
    return text.startswith("{")


def build_from_spec(text: str) -> BaseTask:
    """A model as `read_model` describes it, without its weights.

    Raises:
        ValueError: If there is no such model.
    """
    config = json.loads(text)
    check_classes(config, RUNS)
    module, _, name = config["model"].rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the checkpoint holds a {config['model']}, which can't be imported here: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseTask)):  # nothing else that it names may run
        raise ValueError(
            f"{name} is not one of Kindling's tasks: derive it from kindling.BaseTask to export it, or from "
            f"kindling.ClassificationTask to serve or load it; for Python alone, call {name}.load_from_checkpoint"
        )
    try:
        return cls(**config["arguments"])
    except (TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"the checkpoint holds a {name} with other arguments than it takes here: {error}") from error


def load_model(path: Path, stored: dict[str, Any] | None = None) -> BaseTask:
    """Return the trained model of a checkpoint, on the CPU, ready to predict.

    Args:
        path: The checkpoint.
        stored: What it holds, where it has been read already.

    Raises:
        ValueError: If it is no checkpoint of Kindling, has not been trained, or its model has changed since.
    """
    text, weights = read_model_spec(path, stored)
    model = build_from_spec(text)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit {type(model).__name__} as it is now: {reason}") from error
    return model.eval()


def load_classifier(path: Path, stored: dict[str, Any] | None = None) -> ClassificationTask:
    """Return the trained classifier of a checkpoint.

    Raises:
        ValueError: As `load_model`, and if the model is no classifier.
    """
    model = load_model(path, stored)
    if not isinstance(model, ClassificationTask):
        name = type(model).__name__
        raise ValueError(f"{name} does not predict classes: load it with {name}.load_from_checkpoint")
    return model
