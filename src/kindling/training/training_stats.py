"""Logs learning rate, gradient norm, speed and memory."""

import time
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from typing_extensions import override

from kindling.models.batches import batch_size


class TrainingStatsMonitor(Callback):
    """Logs learning rate, gradient norm, speed and memory.

    Every `log_every_n_steps` steps, or in the last step of a shorter epoch: `gradient_norm`, the norm of all gradients
    before clipping, and the learning rate of the step as `lr`, or `lr/<name>` for named parameter groups. After each
    epoch: `samples_per_second`, without the time for validation, and `memory_gb`, the memory of this process in GB, or
    on a GPU `gpu_memory_gb`, the peak memory.
    """

    def __init__(self) -> None:
        self._samples, self._seconds, self._since = 0, 0.0, 0.0

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]
        steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        ends_short_epoch = trainer.is_last_batch and steps_per_epoch <= every
        if ends_short_epoch or (every and (step + 1) % every == 0):
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            norm: Any = get_total_norm(gradients)
            norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # sharded weights
            log(trainer, {**learning_rates(optimizer, _prefix(trainer, optimizer)), "gradient_norm": norm}, step)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # not called if a run resumes within an epoch
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.num_training_batches < every:
            # Lightning would never log the step metrics of a model in an epoch this short.
            trainer.log_every_n_steps = int(trainer.num_training_batches)  # type: ignore[attr-defined]

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._samples, self._seconds, self._since = 0, 0.0, time.perf_counter()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds += time.perf_counter() - self._since

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        share = getattr(trainer.train_dataloader, "share", None)
        self._samples += share.total if share and trainer.world_size > 1 else batch_size(batch) * trainer.world_size

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = self._seconds + time.perf_counter() - self._since
        device = trainer.strategy.root_device
        values = {"samples_per_second": self._samples / seconds}
        if device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        else:
            values["memory_gb"] = psutil.Process().memory_info().rss / 1e9
        log(trainer, values, max(0, trainer.global_step - trainer.is_last_batch))  # the step of other epoch metrics


def _prefix(trainer: Trainer, optimizer: Optimizer) -> str:
    """Return the log name of the rate of an optimizer: `lr`, or `lr/0`, `lr/1` ... if there are several."""
    optimizers = [getattr(one, "optimizer", one) for one in trainer.optimizers]
    unwrapped = getattr(optimizer, "optimizer", optimizer)
    number = next((number for number, one in enumerate(optimizers) if one is unwrapped), 0)
    return f"lr/{number}" if len(optimizers) > 1 else "lr"


def learning_rates(optimizer: Optimizer, prefix: str = "lr") -> dict[str, float]:
    """Return the learning rates of an optimizer by log name."""
    groups = optimizer.param_groups
    if len(groups) == 1 and "name" not in groups[0]:
        return {prefix: groups[0]["lr"]}
    return {f"{prefix}/{group.get('name', number)}": group["lr"] for number, group in enumerate(groups)}


@rank_zero_only
def log(trainer: Trainer, values: dict[str, float], step: int) -> None:
    """Log values immediately; `LightningModule.log` would wait for the next logging step."""
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step)
