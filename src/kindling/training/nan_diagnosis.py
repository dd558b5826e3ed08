"""Where numbers went wrong: the first layer whose output or gradient is not finite."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model by name, in the order of their definition: all modules that have none within."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and not isinstance(module, Metric) and not any(module.children())
    }


def layer_label(model: nn.Module, name: str) -> str:
    """A layer's name and kind: `network.3 (Linear)`."""
    return f"{name} ({type(model.get_submodule(name)).__name__})"


def is_finite(values: Any) -> bool:
    """Whether all floats in a tensor, or in the tensors of a list, tuple or dict, are finite."""
    return all(bool(leaf.isfinite().all()) for leaf in floats(values))


def floats(values: Any) -> list[Tensor]:
    """The tensors of floats in a structure."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def find_first_nonfinite_layer(model: LightningModule, batch: Any, batch_idx: int = 0) -> str:
    """Says which layer was the first not to be finite in a training step; runs forward and backward again to see it.

    Args:
        model: The model with the weights of the step.
        batch: What the step was given.
        batch_idx: Its number.
    """
    return nonfinite_weights(model) or _Rerun(model).look(batch, batch_idx)


def nonfinite_weights(model: LightningModule) -> str:
    """Says which layer's weights were the first not to be finite; nothing where all are."""
    went = [name for name, weight in model.named_parameters() if not is_finite(weight)]
    if not went:
        return ""
    layer = went[-1].rpartition(".")[0]  # backward goes from the last layer to the first, and so did they
    cause = "the gradient of the step before left" if model.global_step else "it began with"
    where = layer_label(model, layer) if layer else went[-1]
    return f"{where} was the first to go: {cause} nan or inf in its weights"


def nonfinite_data(model: LightningModule, batch: Any) -> str:
    """Says what in a batch (N, ...), or in the mean and std of all inputs, is not finite."""
    for values in floats(batch):
        if broken := sum(not is_finite(sample) for sample in values):
            return f"{broken} of the {len(values)} samples hold nan or inf"
    unknown = [name for name in ("mean", "std") if not is_finite(getattr(model, name, None))]
    return f"the {' and '.join(unknown)} of the inputs hold nan or inf" if unknown else ""


class _Rerun:
    """Forward and backward with an eye on what goes into each layer and comes out of it."""

    def __init__(self, model: LightningModule) -> None:
        self.model = model
        self.first = ""  # what forward says
        self.bad: dict[str, set[str]] = {"input": set(), "output": set()}  # layers by the gradient that is not finite

    def look(self, batch: Any, batch_idx: int) -> str:
        if not self.model.automatic_optimization:  # its step would change the weights
            return "which layer was the first can't be told where the model optimizes by itself"
        self.model.zero_grad()
        hooks = [
            layer.register_forward_hook(partial(self._forward, name)) for name, layer in layers(self.model).items()
        ]
        try:
            with torch.enable_grad(), torch.autograd.set_detect_anomaly(False), self._context():
                with torch.compiler.set_stance("force_eager"):  # what is compiled calls no hooks
                    takes_index = is_param_in_hook_signature(self.model.training_step, "batch_idx", min_args=2)
                    output: Any = self.model.training_step(*((batch, batch_idx) if takes_index else (batch,)))
                loss = output["loss"] if isinstance(output, dict) else output
            if self.first:
                return self.first
            if not is_finite(loss):
                return "the outputs of all layers are finite, the loss of them is not"
            loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
        return self._backward_says()

    def _context(self) -> Any:
        return self.model.trainer.precision_plugin.forward_context()

    def _forward(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        for end, values in (("input", inputs), ("output", output)):
            if not self.first and not is_finite(values):
                self.first = f"{layer_label(self.model, name)} was the first to go: its {end} holds nan or inf"
            for value in floats(values):
                if value.requires_grad:
                    value.register_hook(partial(self._backward, name, end))  # type: ignore[no-untyped-call]

    def _backward(self, name: str, end: str, gradient: Tensor) -> None:
        if not is_finite(gradient):
            self.bad[end].add(name)

    def _backward_says(self) -> str:
        own = {name for name, layer in layers(self.model).items() if not is_finite(_gradients(layer))}
        names = list(layers(self.model))
        guilty = [name for name in names if name in self.bad["input"] | own and name not in self.bad["output"]]
        after = [name for name in names if name in self.bad["output"]]
        if guilty:
            return f"{layer_label(self.model, guilty[-1])} was the first to go: its gradient holds nan or inf"
        if after:
            return (
                f"what follows {layer_label(self.model, after[-1])} was the first to go: its gradient holds nan or inf"
            )
        return ""


def _gradients(layer: nn.Module) -> Iterable[Tensor]:
    return [parameter.grad for parameter in layer.parameters(recurse=False) if parameter.grad is not None]
