"""One line that says what would make a run faster."""

import os
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from kindling.console import say

WARM_UP = 5  # batches after which the first ones, which start workers and fill caches, are forgotten
ENOUGH = 30  # batches after which the run is judged
HEAVY = 0.03  # seconds of a step on the CPU from which bfloat16 pays: 8% less time at 20 ms, 35% at 100 ms
BF16 = "this processor computes in bfloat16: --trainer.precision bf16-mixed"


class SpeedHint(Callback):
    """Says at most once a run, and only where it can know, what would make it faster.

    A GPU that is not used, bfloat16 that the processor has and the run does not use, or a loader that the training
    waits for more than half of its time.
    """

    def __init__(self) -> None:
        self.said = False
        self.waited = self.worked = 0.0  # seconds
        self._since = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cpu" and torch.accelerator.is_available():
            self._say("a GPU is left unused: --trainer.accelerator gpu")
        elif device.type == "cuda" and trainer.precision == "32-true" and torch.cuda.is_bf16_supported(False):
            self._say(BF16)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.waited += self._lap()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.worked += self._lap()
        if batch_idx == WARM_UP:
            self.waited = self.worked = 0.0
        elif batch_idx == WARM_UP + ENOUGH:
            self._judge(trainer, pl_module)

    def _judge(self, trainer: Trainer, model: LightningModule) -> None:
        share = self.waited / (self.waited + self.worked)
        cores = os.cpu_count() or 1
        if share > 0.5 and getattr(trainer.train_dataloader, "num_workers", cores) < cores:
            self._say(f"training waits {share:.0%} of its time for data: --data.num_workers {cores}")
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())  # a small MLP gains nothing
        on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.precision == "32-true"
        if on_cpu and convolves and self.worked > HEAVY * ENOUGH and cpu_has_bf16():
            self._say(BF16)

    def _lap(self) -> float:
        since, self._since = self._since, time.perf_counter()
        return self._since - since

    def _say(self, what: str) -> None:
        if not self.said:
            say(f"faster: {what}")
        self.said = True


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself; torch before 2.10 does not say."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(has.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
