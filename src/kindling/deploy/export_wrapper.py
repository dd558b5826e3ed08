"""The module that is exported: from raw inputs to predictions."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from kindling.deploy.model_card import task_of
from kindling.models import BaseTask
from kindling.utils.trees import SequenceKey, tree_flatten_with_path, tree_leaves, tree_unflatten

Inputs = tuple[Tensor, ...]  # raw inputs, each (N, ...)
Outputs = tuple[Tensor, ...]  # probabilities and logits, each (N, classes); or predictions, each (N, ...)
Compute = Callable[..., Outputs]  # takes the inputs as separate arguments


class ExportWrapper(nn.Module):
    """Computes probabilities and logits, or what `to_prediction` returns, from raw inputs; both flattened.

    The softmax of the logits gives the probabilities: they are divided by the temperature.

    Attributes:
        task: See `ModelCard.task`.
        inputs: Names of the inputs: the keys of a dictionary, or the arguments of the network; "inputs" if it is a
            single tensor.
        outputs: Names of the outputs.

    Args:
        model: The trained model.

    Raises:
        ValueError: If its predictions are not tensors.
    """

    def __init__(self, model: BaseTask) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.task = task_of(model)
        example = model.example_inputs()
        self.structure = tree_flatten_with_path(example)[1]
        if isinstance(example, tuple | list):
            names = _argument_names(model.core.forward, len(example))
            self.inputs = _leaf_names(dict(zip(names, example, strict=True)), "inputs")
        else:
            self.inputs = _leaf_names(example, "inputs")
        self.is_classifier = self.task in ("classification", "multilabel")
        self.outputs = ["probabilities", "logits"] if self.is_classifier else self._name_outputs(example)

    @torch.no_grad()
    def _name_outputs(self, example: Any) -> list[str]:
        predictions = self.model.eval().to_prediction(self.model.outputs_for(example))
        if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(predictions)):
            name = type(self.model).__name__
            raise ValueError(
                f"{name}.to_prediction returns a {type(predictions).__name__}: only tensors can be exported"
            )
        return _leaf_names(predictions, "predictions")

    @override
    def forward(self, *inputs: Tensor) -> Outputs:
        outputs = self.model.outputs_for(tree_unflatten(inputs, self.structure))
        if self.is_classifier:
            outputs = self.model.calibrate(outputs)
            return (outputs.sigmoid() if self.task == "multilabel" else outputs.softmax(dim=1)), outputs
        return tuple(tree_leaves(self.model.to_prediction(outputs)))


def _argument_names(function: Callable[..., Any], number: int) -> list[str]:
    """Return the names of the first arguments of a function; those of `*inputs` are inputs_0, inputs_1, ..."""
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{place}" for place in range(number - len(names))]
        else:
            names.append(parameter.name)
    return names[:number]


def _leaf_names(tree: Any, root: str) -> list[str]:
    """Return a name for each tensor in nested dictionaries and lists: its path, which starts with `root` in a list."""
    names = []
    for path, _ in tree_flatten_with_path(tree)[0]:
        steps = [
            f"_{key.idx}" if isinstance(key, SequenceKey) else f".{getattr(key, 'key', getattr(key, 'name', key))}"
            for key in path
        ]
        name = "".join(steps)
        names.append(name[1:] if name.startswith(".") else root + name)
    return names
