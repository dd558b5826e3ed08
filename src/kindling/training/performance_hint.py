"""Prints a hint on how to make a run faster."""

import logging
import time
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from kindling.data.datamodule import ArrayDataset
from kindling.utils.cores import share_of_cores

logger = logging.getLogger(__name__)

WARM_UP_BATCHES = 5  # not timed: the first batches start workers and fill caches
TIMED_BATCHES = 30
MIN_BF16_STEP_SECONDS = 0.03  # bfloat16 saves 8% of the time of a CPU step of 20 ms, and 35% of 78 ms
BF16_HINT = "this processor supports bfloat16: --trainer.precision bf16-mixed"


class PerformanceHint(Callback):
    """Prints at most one hint per run on how to make it faster.

    Hints are an unused GPU, bfloat16 if the processor supports it and the run does not use it, and worker processes if
    training waits for data for more than half of its time.
    """

    def __init__(self) -> None:
        self.has_hinted = False
        self.batches = 0
        self._started = self._loading = 0.0  # seconds

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cpu" and (CUDAAccelerator.is_available() or MPSAccelerator.is_available()):
            self._hint("a GPU is not used: --trainer.accelerator gpu")
        elif device.type == "cuda" and trainer.precision == "32-true" and torch.cuda.is_bf16_supported(False):
            self._hint(BF16_HINT)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if self.batches not in (WARM_UP_BATCHES, WARM_UP_BATCHES + TIMED_BATCHES):
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # includes the work that is still queued
        loading, now = getattr(trainer.train_dataloader, "seconds", 0.0), time.perf_counter()
        if self.batches > WARM_UP_BATCHES:
            self._check_speed(trainer, pl_module, loading - self._loading, now - self._started)
        self._loading, self._started = loading, now

    def _check_speed(self, trainer: Trainer, model: LightningModule, loading: float, seconds: float) -> None:
        loader, cores = cast(DataLoader[Any], trainer.train_dataloader), share_of_cores(trainer.num_devices)
        if loading > 0.5 * seconds and loader.num_workers < cores and not is_in_memory(loader):
            self._hint(f"training waits for data {loading / seconds:.0%} of its time: --data.num_workers {cores}")
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())  # a small MLP gains nothing
        on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.precision == "32-true"
        if on_cpu and convolves and seconds - loading > MIN_BF16_STEP_SECONDS * TIMED_BATCHES and cpu_has_bf16():
            self._hint(BF16_HINT)

    def _hint(self, hint: str) -> None:
        if not self.has_hinted:
            logger.info(f"hint: {hint}")
        self.has_hinted = True


def is_in_memory(loader: DataLoader[Any]) -> bool:
    """Return whether batches are slices of tensors, which worker processes do not speed up."""
    return type(loader.dataset) is ArrayDataset and isinstance(loader.dataset.inputs, Tensor)


def cpu_has_bf16() -> bool:
    """Return whether this CPU has bfloat16 instructions; always False with torch before 2.10, which can't tell."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
