"""Reports layers with dead units, or with vanishing or exploding gradients."""

import logging
import math
from collections import Counter
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from kindling.training.nan_diagnosis import layers
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

CHECK_EVERY_N_STEPS = 10
PATIENCE = 3  # consecutive checks that must find a vanished gradient: a single early one proves nothing
RECTIFIERS = (nn.ReLU, nn.ReLU6)  # output and gradient are zero for negative inputs


class LayerHealthMonitor(Callback):
    """Monitors gradients and activations, and reports each problem of a layer once.

    Dead: units of a ReLU that are zero for every sample of an epoch, and so get no gradient. In Kindling's recipes up
    to a sixth of a layer is dead; https://cs231n.github.io/neural-networks-1 reports 40% at too high a learning rate.

    Vanishing: a gradient that is tiny compared to the largest of all layers. The smallest ratio in sound networks was
    1e-4, in an EfficientNet; ten layers of sigmoids have 3e-9.

    Exploding: a gradient that is large in itself or compared to the first step. In sound networks the largest was 14,
    in a ShuffleNet on small images, and none grew to more than 8 times that of the first step.

    The size of a gradient is its root mean square over a matrix or filter, before clipping. Frozen layers are ignored.

    Args:
        dead: Minimum fraction of dead units in a reported layer.
        vanishing: Maximum gradient of a reported layer relative to the largest, in three consecutive checks.
        exploding: Minimum gradient of a reported layer. If the largest gradient of the first step is below 1, the limit
            is multiplied by it, but by 0.01 at least.
    """

    def __init__(self, dead: float = 0.3, vanishing: float = 1e-5, exploding: float = 100.0) -> None:
        self.dead, self.vanishing, self.exploding = dead, vanishing, exploding
        self._hooks: list[RemovableHandle] = []
        self._reset()

    def _reset(self) -> None:
        self.reported: set[tuple[str, str]] = set()  # kind of problem and name of the layer
        self._vanished: Counter[str] = Counter()  # consecutive checks by layer
        self._first = 0.0  # largest gradient of a layer in the first check
        self._calls: Counter[str] = Counter()  # by layer in this forward pass: one ReLU may be used several times
        # Units that have been zero so far in this epoch, by layer, number of the call, and number of units.
        self._zero_units: dict[tuple[str, int, int], Tensor] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()
        for name, layer in layers(pl_module).items():
            if isinstance(layer, RECTIFIERS):
                self._hooks.append(layer.register_forward_hook(partial(self._note_activity, name)))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._zero_units.clear()

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._calls.clear()

    @override
    def on_after_backward(self, *_: Any) -> None:
        self._calls.clear()  # an optimizer may run several forward passes per batch

    def _note_activity(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if not layer.training:  # validation, or a frozen layer
            return
        unit = 1 if output.ndim > 3 else output.ndim - 1  # images (N, C, H, W); features (N, F) or (N, T, F)
        output, units = output.detach(), output.shape[unit]
        self._calls[name] += 1
        key = name, self._calls[name], units
        zero_units = self._zero_units.get(key)
        if zero_units is None:
            zero_units = torch.arange(units, device=output.device)
        if len(zero_units):  # usually few are left after the first batch
            other_axes = [axis for axis in range(output.ndim) if axis != unit]
            rest = output if len(zero_units) == units else output.index_select(unit, zero_units)
            zero_units = zero_units[rest.amax(other_axes) <= 0]
        self._zero_units[key] = zero_units

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shared = {name for name, call, _ in self._zero_units if call > 1}
        for (name, call, units), zero_units in self._zero_units.items():
            if len(zero_units) >= self.dead * units:
                layer = f"{name} (call {call} per forward pass)" if name in shared else name
                finding = f"{len(zero_units)} of {units} units were zero for every sample of epoch"
                self._report("dead units", [layer], f"{finding} {trainer.current_epoch + 1}")

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step
        # Each of the first steps is checked: gradients often explode at the start and leave dead layers within ten.
        if step > CHECK_EVERY_N_STEPS and step % CHECK_EVERY_N_STEPS:
            return
        sizes = gradient_sizes(pl_module)
        if not 0 < sum(sizes.values()) < math.inf:  # non-finite: the loss is checked, mixed precision skips the step
            return
        largest = max(sizes, key=sizes.__getitem__)
        self._first = self._first or sizes[largest]
        limit = self.exploding * min(1.0, max(0.01, self._first))
        exploding = [name for name, size in sizes.items() if size > limit]
        finding = f"{format_range(sizes, exploding)} in step {step + 1}, at most {self._first:.3g} in the first check"
        self._report("exploding gradients", exploding, finding)
        if step % CHECK_EVERY_N_STEPS == 0:
            ratios = {name: size / sizes[largest] for name, size in sizes.items()}
            low = [name for name in sizes if ratios[name] < self.vanishing]
            self._vanished = Counter({name: self._vanished[name] + 1 for name in low})
            vanishing = [name for name, checks in self._vanished.items() if checks >= PATIENCE]
            finding = f"{format_range(ratios, vanishing)} of the gradient of {largest} in step {step + 1}"
            self._report("vanishing gradients", vanishing, finding)

    def _report(self, kind: str, names: list[str], finding: str) -> None:
        new = [name for name in names if (kind, name) not in self.reported]
        if new:
            logger.warning(f"{kind}: {join_names(new, 3)}: {finding}")
        self.reported.update((kind, name) for name in new)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)


def format_range(values: dict[str, float], names: list[str]) -> str:
    """Return the range of some values as text, such as `2e-07 to 1.3e-05`."""
    found = sorted(values[name] for name in names)
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (*found[:1], *found[-1:])))


def gradient_sizes(model: nn.Module) -> dict[str, float]:
    """Return the root mean square gradient of the first trained matrix or filter of each layer; 0 without gradient."""
    gradients: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and weight.requires_grad:
            gradient = weight.new_zeros(1) if weight.grad is None else weight.grad
            gradients.setdefault(name.rpartition(".")[0] or name, gradient)
    sizes = [gradient.detach().float().square().mean().sqrt() for gradient in gradients.values()]
    return dict(zip(gradients, torch.stack(sizes).tolist(), strict=True)) if sizes else {}  # one GPU synchronization
