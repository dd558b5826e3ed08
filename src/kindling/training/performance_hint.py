"""One line that says what would make a run faster."""

import logging
import os
import time
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from kindling.data.datamodule import ArrayDataset

logger = logging.getLogger(__name__)


WARM_UP = 5  # batches that are not judged: the first ones start workers and fill caches
ENOUGH = 30  # batches after which the run is judged
HEAVY = 0.03  # seconds of a step on the CPU from which bfloat16 pays: 8% less time at 20 ms, 35% at 78 ms
BF16 = "this processor computes in bfloat16: --trainer.precision bf16-mixed"


class PerformanceHint(Callback):
    """Says at most once a run, and only where it can know, what would make it faster.

    A GPU that is not used, bfloat16 that the processor has and the run does not use, or a loader that the training
    waits for more than half of its time.
    """

    def __init__(self) -> None:
        self.said = False
        self.batches = 0
        self._began = self._loading = 0.0  # seconds

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cpu" and (CUDAAccelerator.is_available() or MPSAccelerator.is_available()):
            self._say("a GPU is left unused: --trainer.accelerator gpu")
        elif device.type == "cuda" and trainer.precision == "32-true" and torch.cuda.is_bf16_supported(False):
            self._say(BF16)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if self.batches not in (WARM_UP, WARM_UP + ENOUGH):
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # what has been asked of it so far belongs to the time so far
        loading, now = getattr(trainer.train_dataloader, "seconds", 0.0), time.perf_counter()
        if self.batches > WARM_UP:
            self._judge(trainer, pl_module, loading - self._loading, now - self._began)
        self._loading, self._began = loading, now

    def _judge(self, trainer: Trainer, model: LightningModule, loading: float, seconds: float) -> None:
        loader, cores = cast(DataLoader[Any], trainer.train_dataloader), os.cpu_count() or 1
        if loading > 0.5 * seconds and loader.num_workers < cores and not is_in_memory(loader):
            self._say(f"training waits {loading / seconds:.0%} of its time for data: --data.num_workers {cores}")
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())  # a small MLP gains nothing
        on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.precision == "32-true"
        if on_cpu and convolves and seconds - loading > HEAVY * ENOUGH and cpu_has_bf16():
            self._say(BF16)

    def _say(self, what: str) -> None:
        if not self.said:
            logger.info(f"faster: {what}")
        self.said = True


def is_in_memory(loader: DataLoader[Any]) -> bool:
    """Whether a batch is nothing but a slice of tensors: worker processes are no help there."""
    return type(loader.dataset) is ArrayDataset and isinstance(loader.dataset.inputs, Tensor)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself; torch before 2.10 does not say."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(has.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
