"""Stops training when the loss is NaN or infinite, and reports the cause."""

import math
import re
from collections import deque
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from kindling.training.nan_diagnosis import find_first_nonfinite_layer, nonfinite_data, nonfinite_weights
from kindling.training.process_connections import PeerError
from kindling.utils.errors import logging_errors


class NotFiniteError(ValueError):
    """A loss that is NaN or infinite."""


class DeferredCheck(NamedTuple):
    """A step whose loss is still being copied from the GPU."""

    loss: Tensor
    copied: torch.cuda.Event
    step: str


class TerminateOnNaN(Callback):
    """Stops training at the first step whose loss is NaN or infinite, before the optimizer step.

    The error names step and epoch (both counted from 1), learning rate, and the first non-finite layer.

    Synchronizing with a GPU in each step would slow it down, so there the loss is checked once its copy has arrived, a
    step or two later. By then the weights contain NaN, and the layer can't be found.

    Args:
        wait: Whether to synchronize with the GPU in each step, which finds the layer.

    Raises:
        NotFiniteError: In all processes of a distributed run.
    """

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait
        self._batch: Any = None
        self._deferred: deque[DeferredCheck] = deque()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch, batch_idx

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self._batch = None

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise ValueError(
                "no gradient reaches any weight: compute the loss without detach or no_grad, and unfreeze at least one "
                "layer"
            )
        if loss.is_cuda and not self.wait and trainer.world_size == 1:
            self._check_deferred()
            self._defer_check(loss, _describe_step(trainer))
            return
        finite = math.isfinite(loss.item())
        # All processes must stop: the others would wait for the gradients of this one forever.
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        if finite:
            raise PeerError(f"the loss of another process is not finite {_describe_step(trainer)}")
        raise NotFiniteError(
            f"the loss is {loss.item():g} {_describe_step(trainer)}: {self._find_cause(trainer, pl_module)}"
        )

    def _find_cause(self, trainer: Trainer, model: LightningModule) -> str:
        batch, batch_idx = self._batch
        if broken := nonfinite_data(model, batch):
            return f"{broken}; check the data"
        if trainer.global_step == 0 and (broken := nonfinite_weights(model)):
            return f"{broken}; check their initialization"
        return f"{find_first_nonfinite_layer(model, batch, batch_idx)}; {suggest_fixes(trainer)}"

    def _defer_check(self, loss: Tensor, step: str) -> None:
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._deferred.append(DeferredCheck(loss.detach().to("cpu", non_blocking=True), copied, step))
        copied.record()

    def _check_deferred(self, wait: bool = False) -> None:
        while self._deferred and (wait or self._deferred[0].copied.query()):  # type: ignore[no-untyped-call]
            loss, copied, step = self._deferred.popleft()
            copied.synchronize()
            if not loss.isfinite():
                raise NotFiniteError(f"the loss is {loss.item():g} {step}: add --watch to find the first such layer")

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_deferred(wait=True)  # never save weights that are NaN

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_deferred(wait=True)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        operation = describe_anomaly(exception)
        if operation and self._batch:
            layer = ""
            with logging_errors("finding the layer"):
                layer = find_first_nonfinite_layer(pl_module, *self._batch)
            exception.add_note(f"{operation} {_describe_step(trainer)}" + (f": {layer}" if layer else ""))


def describe_anomaly(exception: BaseException) -> str:
    """Return the finding of torch's anomaly detection; empty for other exceptions."""
    found = re.match(r"Function '(\w+?)(Backward\d*)?' returned nan values", str(exception))
    return f"the derivative of {found[1].removesuffix('Backward')} is nan" if found else ""


def suggest_fixes(trainer: Trainer) -> str:
    """Return the options that usually help."""
    fixes = ["a lower --model.optimizer.lr"]
    if not trainer.gradient_clip_val:
        fixes.append("--trainer.gradient_clip_val 1")
    if trainer.precision != "32-true":
        fixes.append("--trainer.precision 32-true")
    return f"try {' or '.join(fixes)}; --trainer.detect_anomaly true may name the operation"


def _describe_step(trainer: Trainer) -> str:
    step, epoch = trainer.global_step + 1, trainer.current_epoch + 1
    rates = dict.fromkeys(f"{group['lr']:.3g}" for each in trainer.optimizers for group in each.param_groups)
    return f"in step {step} (epoch {epoch}) at a learning rate of {' and '.join(rates)}"
