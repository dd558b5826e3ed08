"""Checks before training that a model and its data match."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from kindling.models.classification import ClassificationTask
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import RegressionTask
from kindling.models.task import BaseTask
from kindling.utils.errors import users_line


def check_network(model: LightningModule) -> None:
    """Run a model once on an example, so that errors are reported before training.

    Models that are not Kindling tasks, or have neither an input shape nor an example input, are skipped.
    """
    if not isinstance(model, BaseTask):
        return
    _ = model.core  # raises an error if there is neither a network nor a forward
    if not model.has_example:
        model.init_lazy_layers()  # raises an error if lazy layers need the shape
        return
    modes = [(module, module.training) for module in model.modules()]
    name = type(model).__name__
    if not model.has_lazy_layers:
        model.init_lazy_layers()  # outside of `try`: errors about pretrained weights are clear as they are
    try:
        with torch.no_grad():
            outputs = model.eval().outputs_for(model.example_inputs())
    except Exception as error:  # layers may raise any exception
        reason = " ".join(str(error).split()) + (f" ({place})" if (place := users_line(error)) else "")
        has_example = model.example_input_array is not None
        inputs = "its example_input_array" if has_example else f"inputs of shape {tuple(model.input_shape)}"
        raise ValueError(f"{name} does not accept {inputs}: {reason}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    if isinstance(model, ClassificationTask | MultiLabelTask) and outputs.shape[:2] != (1, model.num_classes):
        raise _wrong_shape(name, "logits (N, num_classes)", (1, model.num_classes), outputs)
    if isinstance(model, RegressionTask) and outputs.shape != (1,):
        raise _wrong_shape(name, "numbers (N,)", (1,), outputs)


def _wrong_shape(name: str, kind: str, expected: tuple[int, ...], outputs: Tensor) -> ValueError:
    return ValueError(f"{name} must return {kind}: for one sample {expected}, got {tuple(outputs.shape)}")
