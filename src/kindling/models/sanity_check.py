"""Whether a network and its data go together."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kindling.models.classification import ClassificationTask
from kindling.models.regression import RegressionTask
from kindling.models.task import BaseTask


def check_targets(model: LightningModule, targets: Any) -> None:
    """Raise ValueError where a classifier has numbers to learn from, or a regressor classes."""
    if not isinstance(targets, Tensor) or not isinstance(model, ClassificationTask | RegressionTask):
        return
    if targets.is_floating_point() == isinstance(model, ClassificationTask):
        kinds = ("numbers", "classes")
        has, wants = kinds if targets.is_floating_point() else kinds[::-1]
        raise ValueError(f"{type(model).__name__} predicts {wants}, and the targets of the data are {has}")
    if isinstance(model, RegressionTask) and targets.ndim != 1:
        shape = tuple(targets.shape)
        raise ValueError(f"{type(model).__name__} predicts one number a sample, and the targets have the shape {shape}")


def check_network(model: LightningModule) -> None:
    """Run a network once on an example, so that an error is reported before training.

    A model that is no task of Kindling's, or knows neither the shape of its inputs nor an example, is not run.

    Raises:
        ValueError: If it does not take the inputs of the data, or its outputs have the wrong shape.
        OSError: If it starts from trained weights that are not there.
    """
    if not isinstance(model, BaseTask):
        return
    if not model.has_example:
        model.init_lazy_layers()  # lazy layers need the shape
        return
    modes = [(module, module.training) for module in model.modules()]
    name = type(model).__name__
    if not any(isinstance(parameter, nn.UninitializedParameter) for parameter in model.parameters()):
        model.init_lazy_layers()  # trained weights say by themselves what is wrong with them
    try:
        with torch.no_grad():
            outputs = model.eval()(model.example_inputs())
    except Exception as error:  # layers raise whatever they like
        reason = " ".join(str(error).split())
        of_its_own = model.example_input_array is not None
        inputs = "its own example_input_array" if of_its_own else f"inputs of shape {tuple(model.input_shape)}"
        raise ValueError(f"{name} does not take {inputs}: {reason}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    if isinstance(model, ClassificationTask) and outputs.shape[:2] != (1, model.num_classes):
        raise _wrong_shape(name, "logits (N, num_classes)", (1, model.num_classes), outputs)
    if isinstance(model, RegressionTask) and outputs.shape != (1,):
        raise _wrong_shape(name, "numbers (N,)", (1,), outputs)


def _wrong_shape(name: str, what: str, wanted: tuple[int, ...], outputs: Tensor) -> ValueError:
    return ValueError(f"{name} must give {what}: for one sample {wanted}, not {tuple(outputs.shape)}")
