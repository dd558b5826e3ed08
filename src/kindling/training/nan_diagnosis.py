"""Finds the first layer whose weights, output or gradient contain NaN or Inf."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torchmetrics import Metric

from kindling.utils.trees import tree_leaves


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers (modules without children) of a model by name, in the order of their definition."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and not isinstance(module, Metric) and not any(module.children())
    }


def layer_label(model: nn.Module, name: str) -> str:
    """Return the name and class of a layer, such as `network.3 (Linear)`."""
    return f"{name} ({type(model.get_submodule(name)).__name__})"


def is_finite(values: Any) -> bool:
    """Return whether all float tensors in a nested structure are finite."""
    return all(bool(leaf.isfinite().all()) for leaf in floats(values))


def floats(values: Any) -> list[Tensor]:
    """Return the float tensors in a nested structure."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def find_first_nonfinite_layer(model: LightningModule, batch: Any, batch_idx: int = 0) -> str:
    """Repeat forward and backward of a training step, and describe the first layer that is not finite."""
    return nonfinite_weights(model) or _Rerun(model).find(batch, batch_idx)


def nonfinite_weights(model: LightningModule) -> str:
    """Describe the first layer whose weights are not finite; empty if all are."""
    names = [name for name, weight in model.named_parameters() if not is_finite(weight)]
    if not names:
        return ""
    layer = names[-1].rpartition(".")[0]  # the backward pass, which spreads NaN, starts at the last layer
    label = layer_label(model, layer) if layer else names[-1]
    since = "after the previous step" if model.global_step else "from the start"
    return f"{label} is the first non-finite layer: its weights contain NaN or Inf {since}"


def nonfinite_data(model: LightningModule, batch: Any) -> str:
    """Describe what is not finite in a batch (N, ...), or in the mean and std of the inputs; empty if nothing is."""
    for values in floats(batch):
        if broken := sum(not is_finite(sample) for sample in values):
            return f"{broken} of the {len(values)} samples contain NaN or Inf"
    broken_names = [name for name in ("mean", "std") if not is_finite(getattr(model, name, None))]
    return f"the {' and '.join(broken_names)} of the inputs contain NaN or Inf" if broken_names else ""


class _Rerun:
    """Forward and backward pass with hooks that check inputs, outputs and gradients of each layer."""

    def __init__(self, model: LightningModule) -> None:
        self.model = model
        self.first = ""  # description of the first non-finite layer in the forward pass
        # Names of layers with a non-finite gradient of their input or output.
        self.nonfinite: dict[str, set[str]] = {"input": set(), "output": set()}

    def find(self, batch: Any, batch_idx: int) -> str:
        if not self.model.automatic_optimization:  # its step would change the weights
            return "the layer can't be found with manual optimization"
        self.model.zero_grad()
        hooks = [
            layer.register_forward_hook(partial(self._forward, name)) for name, layer in layers(self.model).items()
        ]
        precision = self.model.trainer.precision_plugin
        try:
            with torch.enable_grad(), torch.autograd.set_detect_anomaly(False), precision.forward_context():
                with torch.compiler.set_stance("force_eager"):  # compiled code calls no hooks
                    takes_index = is_param_in_hook_signature(self.model.training_step, "batch_idx", min_args=2)
                    output: Any = self.model.training_step(*((batch, batch_idx) if takes_index else (batch,)))
                loss = output["loss"] if isinstance(output, dict) else output
            if self.first:
                return self.first
            if not is_finite(loss):
                return "the outputs of all layers are finite, but the loss is not"
            loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
        return self._describe_backward()

    def _forward(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        for side, values in (("input", inputs), ("output", output)):
            if not self.first and not is_finite(values):
                label = layer_label(self.model, name)
                self.first = f"{label} is the first non-finite layer: its {side} contains NaN or Inf"
            for value in floats(values):
                if value.requires_grad:
                    value.register_hook(partial(self._backward, name, side))  # type: ignore[no-untyped-call]

    def _backward(self, name: str, side: str, gradient: Tensor) -> None:
        if not is_finite(gradient):
            self.nonfinite[side].add(name)

    def _describe_backward(self) -> str:
        outputs, sources = self.nonfinite["output"], set(self.nonfinite["input"])
        for name, layer in layers(self.model).items():
            if not is_finite([parameter.grad for parameter in layer.parameters(recurse=False)]):
                sources.add(name)
        names = list(layers(self.model))
        finding = "is the first non-finite layer: its gradient contains NaN or Inf"
        if first := [name for name in names if name in sources - outputs]:
            return f"{layer_label(self.model, first[-1])} {finding}"
        if before := [name for name in names if name in outputs]:
            return f"the layer after {layer_label(self.model, before[-1])} {finding}"
        return ""
