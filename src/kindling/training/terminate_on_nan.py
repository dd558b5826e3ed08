"""Stops at a loss that is NaN or infinite, and says where it came from."""

import math
import re
from collections import deque
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from kindling.training.nan_diagnosis import find_first_nonfinite_layer, nonfinite_data, nonfinite_weights


class NotFiniteError(ValueError):
    """A loss that is NaN or infinite."""


class Later(NamedTuple):
    """What is known of a step whose loss is still on its way from the GPU."""

    loss: Tensor
    arrived: torch.cuda.Event
    where: str


class TerminateOnNaN(Callback):
    """Stops training at the step whose loss is NaN or infinite, before the weights take it in.

    It names step and epoch (both counted from 1), learning rate, and the layer that was the first to go.

    To wait for a GPU in each step would cost what it computes ahead, so there the loss is looked at when it has
    arrived, a step or two later: then the weights hold NaN, and which layer was the first can't be told.

    Args:
        wait: Whether to wait for a GPU all the same.

    Raises:
        NotFiniteError: At such a loss, in all processes of a distributed training.
    """

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait
        self._batch: Any = None
        self._later: deque[Later] = deque()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch, batch_idx

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self._batch = None

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise ValueError("no gradient reaches any weight: a detach, no_grad or freezing cuts the loss off")
        if loss.is_cuda and not self.wait and trainer.world_size == 1:
            self._check_deferred()
            self._defer_check(loss, _where(trainer))
            return
        finite = math.isfinite(loss.item())
        # The other processes would wait for this one's gradients for ever. (`ExactResume` asks them in each step too.)
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        raise NotFiniteError(f"the loss is {loss.item():g} {_where(trainer)}: {self._why(trainer, pl_module, finite)}")

    def _why(self, trainer: Trainer, model: LightningModule, finite: bool) -> str:
        if finite:
            return "that of another process is not finite"
        batch, batch_idx = self._batch
        if broken := nonfinite_data(model, batch):
            return f"{broken}; look at the data"
        if trainer.global_step == 0 and (broken := nonfinite_weights(model)):
            return f"{broken}; look at where they come from"
        return f"{find_first_nonfinite_layer(model, batch, batch_idx)}; {suggest_fixes(trainer)}"

    def _defer_check(self, loss: Tensor, where: str) -> None:
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._later.append(Later(loss.detach().to("cpu", non_blocking=True), arrived, where))
        arrived.record()

    def _check_deferred(self, wait: bool = False) -> None:
        while self._later and (wait or self._later[0].arrived.query()):  # type: ignore[no-untyped-call]
            loss, arrived, where = self._later.popleft()
            arrived.synchronize()
            if not loss.isfinite():
                raise NotFiniteError(
                    f"the loss is {loss.item():g} {where}: --watch says which layer was the first to go"
                )

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_deferred(wait=True)  # no checkpoint is replaced by weights that are NaN

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_deferred(wait=True)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if (operation := is_anomaly(exception)) and self._batch:
            what = find_first_nonfinite_layer(pl_module, *self._batch)
            exception.add_note(f"{operation} {_where(trainer)}" + f": {what}" * bool(what))


def is_anomaly(exception: BaseException) -> str:
    """What anomaly detection has found, empty for any other exception."""
    found = re.match(r"Function '(\w+?)(Backward\d*)?' returned nan values", str(exception))
    return f"the derivative of {found[1].removesuffix('Backward')} is nan" if found else ""


def suggest_fixes(trainer: Trainer) -> str:
    """What mostly helps."""
    ways = ["a lower --model.optimizer.lr"]
    ways += ["--trainer.gradient_clip_val 1"] * (not trainer.gradient_clip_val)
    ways += ["--trainer.precision 32-true"] * (trainer.precision != "32-true")
    return f"try {' or '.join(ways)}; --trainer.detect_anomaly true may name the operation"


def _where(trainer: Trainer) -> str:
    step, epoch = trainer.global_step + 1, trainer.current_epoch + 1
    rates = dict.fromkeys(f"{group['lr']:.3g}" for each in trainer.optimizers for group in each.param_groups)
    return f"in step {step} (epoch {epoch}) at a learning rate of {' and '.join(rates)}"
