"""The part of a task that applies its network: shape and normalization of the inputs, and the forward pass."""

from inspect import signature
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from kindling.models.infer import UnknownShape


class NetworkModule(LightningModule):
    """A LightningModule with a network, or a `forward` of its own, that knows and normalizes its inputs.

    The arguments are those of `BaseTask`.
    """

    network: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape) or UnknownShape.of(self)
        self._seen_shapes: set[tuple[int, ...]] = set()  # of training samples that are one float tensor; at most two
        per_channel = (-1,) + (1,) * max(0, len(input_shape) - 1)
        self.register_buffer("mean", torch.tensor(mean).view(per_channel))
        self.register_buffer("std", torch.tensor(std).view(per_channel))

    @property
    def core(self) -> nn.Module:
        """The module that computes the outputs: `network`, or the task itself if it has only a `forward` of its own."""
        network: nn.Module | None = getattr(self, "network", None)
        if network is not None:
            return network
        if type(self).forward.__module__.startswith("kindling."):  # those call the network
            name = type(self).__name__
            raise ValueError(f"{name} has no network: set self.network in its __init__, or define forward")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: `input_shape`, or that of the example or of all training samples; () if unknown."""
        example = self.example_input_array
        if not self.input_shape and isinstance(example, Tensor) and example.is_floating_point():
            return tuple(example.shape[1:])
        return self.input_shape or (() if len(self._seen_shapes) != 1 else next(iter(self._seen_shapes)))

    @property
    def has_example(self) -> bool:
        """Whether `example_inputs` can be called."""
        return bool(self.sample_shape) or self.example_input_array is not None

    def example_inputs(self) -> Any:
        """Return the inputs of one sample: `example_input_array` if the model sets it, else zeros."""
        if self.example_input_array is not None:
            return self.example_input_array
        return torch.zeros(1, *(self.sample_shape or self.input_shape))  # an unknown one raises an error

    @property
    def lacks_shape(self) -> bool:
        """Whether the input shape is unknown but needed, for lazy layers or to normalize per channel."""
        is_lazy = self.has_lazy_layers and self.example_input_array is None
        return not self.input_shape and (is_lazy or self.mean.numel() > 1)

    @property
    def has_lazy_layers(self) -> bool:
        """Whether any lazy layer is not initialized yet."""
        return any(isinstance(parameter, nn.UninitializedParameter) for parameter in self.parameters())

    def init_lazy_layers(self) -> None:
        """Initialize lazy layers, if there are any, by a forward pass of one sample."""
        if self.has_lazy_layers:
            with torch.no_grad():
                self.eval().outputs_for(self.example_inputs())
            self.train()

    def normalize(self, inputs: Tensor) -> Tensor:
        """Return inputs (N, ...) standardized with `mean` and `std`; integers, such as token IDs, are not changed.

        Floats get the precision of the weights.
        """
        return ((inputs - self.mean) / self.std).to(self.mean.dtype) if inputs.is_floating_point() else inputs

    @override
    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Return the outputs of the network; several inputs may be separate arguments, a tuple or a dictionary."""
        match inputs:
            case [Tensor() as one]:
                outputs = self.network(self.normalize(one), **kwargs)
            case [dict() as several]:
                outputs = self.network(**several)
            case [tuple() | list() as several]:
                outputs = self.network(*several)
            case _:
                outputs = self.network(*inputs, **kwargs)
        return outputs.float() if isinstance(outputs, Tensor) else outputs

    def outputs_for(self, inputs: Any) -> Any:
        """Call `forward` with the inputs of a batch: a tuple by position, a dictionary by name."""
        named = inputs if isinstance(inputs, dict) else {}
        by_position = () if named else inputs if isinstance(inputs, tuple | list) else (inputs,)
        try:
            return self(*by_position, **named)
        except TypeError as error:
            try:
                signature(self.forward).bind(*by_position, **named)
            except TypeError as mismatch:
                names = ", ".join(named or (f"input{number}" for number in range(1, len(by_position) + 1)))
                advice = f"define forward(self, {names})"
                raise ValueError(
                    f"{type(self).__name__}.forward does not take a sample: {mismatch}; {advice}"
                ) from error
            raise

    def note_shape(self, inputs: Any) -> None:
        """Note the shape of training samples; a second one shows that it varies."""
        if len(self._seen_shapes) < 2 and isinstance(inputs, Tensor) and inputs.is_floating_point():
            self._seen_shapes.add(tuple(inputs.shape[1:]))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sample_shapes"] = sorted(map(list, self._seen_shapes))

    def restore_learned(self, checkpoint: dict[str, Any]) -> None:
        """Restore what training has found besides the weights: here the shapes of the training samples."""
        self._seen_shapes = set(map(tuple, checkpoint.get("sample_shapes", ())))
