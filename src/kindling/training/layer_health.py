"""Names the layers in which something goes wrong, in one line when it occurs."""

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

EVERY = 10  # steps from one look at the gradients to the next
PATIENCE = 3  # looks in a row at which a gradient must have vanished: at the first one alone, little has been learnt
RECTIFIERS = (nn.ReLU, nn.ReLU6)  # zero, and without a gradient, where the input is negative


class LayerHealthMonitor(Callback):
    """Watches gradients and activations, and says once of a layer what is wrong with it.

    Dead: units of a ReLU that were zero for every sample of an epoch, and so had no gradient. Up to a sixth of a layer
    was so in our recipes; of 40% where the learning rate is too high tells https://cs231n.github.io/neural-networks-1.

    Vanishing: a gradient that is tiny beside the largest of a layer. The smallest ratio in sound networks was 1e-4, in
    an EfficientNet; ten layers of sigmoids have 3e-9.

    Exploding: a gradient that is large by itself or has grown since the first step. In sound networks the largest was
    14, in a ShuffleNet on small images, and none grew to more than 8 times that of the first step.

    Gradients are root mean squares over a matrix or filter, before clipping. Frozen layers are left out.

    Args:
        dead: Share of a layer's units from which it is named.
        vanishing: Share of the largest gradient of a layer under which one is named, at three looks in a row.
        exploding: Gradient over which a layer is named. It is less where the first gradients were less than 1: so many
            times the largest of them, or a hundredth of it at least.
    """

    def __init__(self, dead: float = 0.3, vanishing: float = 1e-5, exploding: float = 100.0) -> None:
        self.dead, self.vanishing, self.exploding = dead, vanishing, exploding
        self._hooks: list[RemovableHandle] = []
        self._begin()

    def _begin(self) -> None:
        self.said: set[tuple[str, str]] = set()
        self._low: Counter[str] = Counter()  # looks in a row
        self._first = 0.0  # the largest gradient of a layer at the first look
        self._calls: Counter[str] = Counter()  # of a layer in this forward: one ReLU may stand at several places
        # Units that have been zero so far in this epoch, by layer, number of the call, and number of units.
        self._silent: dict[tuple[str, int, int], Tensor] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()
        for name, layer in layers(pl_module).items():
            if isinstance(layer, RECTIFIERS):
                self._hooks.append(layer.register_forward_hook(partial(self._note_activity, name)))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._silent.clear()

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._calls.clear()

    @override
    def on_after_backward(self, *_: Any) -> None:
        self._calls.clear()  # an optimizer may ask for several forwards in one batch

    def _note_activity(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if not layer.training:  # validation, or a frozen part
            return
        unit = 1 if output.ndim > 3 else output.ndim - 1  # images (N, C, H, W); features (N, F) or (N, T, F)
        output, units = output.detach(), output.shape[unit]
        self._calls[name] += 1
        place = name, self._calls[name], units
        if place not in self._silent:
            self._silent[place] = torch.arange(units, device=output.device)
        silent = self._silent[place]
        if len(silent):  # mostly few are left after the first batch
            others = [axis for axis in range(output.ndim) if axis != unit]
            rest = output if len(silent) == units else output.index_select(unit, silent)
            self._silent[place] = silent[rest.amax(others) <= 0]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shared = {name for name, call, _ in self._silent if call > 1}
        for (name, call, units), silent in self._silent.items():
            if len(silent) >= self.dead * units:
                what = f"{len(silent)} of {units} units were zero for every sample of epoch"
                where = f"{name} (call {call} in a forward)" if name in shared else name
                self._say("dead", [where], f"{what} {trainer.current_epoch + 1}")

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        done = trainer.global_step
        if done > EVERY and done % EVERY:  # what explodes at the start is often over in ten steps, and the layers dead
            return
        sizes = gradient_sizes(pl_module)
        if not 0 < sum(sizes.values()) < math.inf:
            return  # nothing is left to learn, or the loss will tell, or mixed precision leaves the step out
        largest = max(sizes, key=sizes.__getitem__)
        self._first = self._first or sizes[largest]
        limit = self.exploding * min(1.0, max(0.01, self._first))
        huge = [name for name, size in sizes.items() if size > limit]
        first = f"the largest of the first was {self._first:.3g}"
        self._say("exploding", huge, f"a gradient of {span(sizes, huge)} in step {done + 1}, {first}")
        if done % EVERY == 0:
            ratios = {name: size / sizes[largest] for name, size in sizes.items()}
            self._low = Counter({name: self._low[name] + 1 for name in sizes if ratios[name] < self.vanishing})
            gone = [name for name, looks in self._low.items() if looks >= PATIENCE]
            self._say("vanishing", gone, f"a gradient of {span(ratios, gone)} of that of {largest} in step {done + 1}")

    def _say(self, kind: str, names: list[str], what: str) -> None:
        new = [name for name in names if (kind, name) not in self.said]
        if new:
            logger.warning(f"watch: {kind}: {join_names(new, 3)}: {what}")
        self.said.update((kind, name) for name in new)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)


def span(ratios: dict[str, float], names: list[str]) -> str:
    """The range of some ratios: `2e-07 to 1.3e-05`."""
    found = sorted(ratios[name] for name in names)
    return " to ".join(dict.fromkeys(f"{ratio:.3g}" for ratio in (*found[:1], *found[-1:])))


def gradient_sizes(model: nn.Module) -> dict[str, float]:
    """Root mean square of the gradient by layer: of its first matrix or filter that is trained.

    A gradient that has not come counts as 0.
    """
    gradients: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and weight.requires_grad:
            gradient = weight.new_zeros(1) if weight.grad is None else weight.grad
            gradients.setdefault(name.rpartition(".")[0] or name, gradient)
    sizes = [gradient.detach().float().square().mean().sqrt() for gradient in gradients.values()]
    return dict(zip(gradients, torch.stack(sizes).tolist(), strict=True)) if sizes else {}  # one wait for the GPU
