"""Whether a network and its data go together."""

import torch
from torch import Tensor, nn

from kindling.models.classifier import Classifier


def check_labels(model: Classifier, labels: Tensor) -> None:
    """Raises ValueError where a model for classes has numbers to learn from, or one for numbers classes."""
    if labels.is_floating_point() == model.classifies:
        wants, has = ("classes", "numbers") if model.classifies else ("numbers", "classes")
        raise ValueError(f"{type(model).__name__} predicts {wants}, and the labels of the data are {has}")


def check_network(model: Classifier) -> None:
    """Lets a network answer once, for a sample of zeros: what does not fit is said before the training.

    Raises:
        ValueError: If it does not take the inputs of the data, or gives something else than it must.
        OSError: If it starts from trained weights that are not there.
    """
    modes = [(module, module.training) for module in model.modules()]
    name, shape = type(model).__name__, tuple(model.input_shape)
    if not any(isinstance(parameter, nn.UninitializedParameter) for parameter in model.parameters()):
        model.materialize()  # trained weights say by themselves what is wrong with them
    try:
        with torch.no_grad():
            outputs = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # layers raise whatever they like
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} does not take inputs of shape {shape}: {reason}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    wanted = (1, model.num_classes) if model.classifies else (1,)
    if outputs.shape != wanted:
        what = "logits (N, num_classes)" if model.classifies else "numbers (N,)"
        raise ValueError(f"{name} must give {what}: for one sample {wanted}, not {tuple(outputs.shape)}")
