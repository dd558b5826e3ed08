"""Weight averaging: the averaged weights are validated, saved, tested, exported and served."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn
from typing_extensions import override

from kindling.models.task import BaseTask


class Averaging(WeightAveraging, ABC):
    """Base of `EMA` and `SWA`: validates and saves averaged weights while training continues with the raw ones.

    The `state_dict` of a checkpoint contains the averaged weights; the raw weights, from which training resumes, are
    stored as `current_model_state`. Running statistics of batch norm are averaged too; counters are copied.
    """

    def __init__(self) -> None:
        super().__init__(multi_avg_fn=self._average)

    @abstractmethod
    def _update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        """Update the averages of `count` earlier values in place."""

    def _average(self, averages: Any, weights: Any, count: Tensor | int) -> None:
        if averages[0].is_floating_point():  # torch groups tensors by type
            self._update(averages, weights, int(count))
        else:
            torch._foreach_copy_(averages, weights)  # `num_batches_tracked` of batch norm

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(pl_module, BaseTask):
            pl_module.init_lazy_layers()  # before Lightning copies the weights
        super().setup(trainer, pl_module, stage)


class EMA(Averaging):
    """Exponential moving average of the weights, updated after each optimizer step.

    The decay rises to its final value as (1 + n) / (10 + n) after n updates, so that the random initial weights are
    forgotten soon even in a short run.

    Args:
        decay: Weight of the previous average in each update, in [0, 1). At 0.99 the last few hundred steps count.

    Raises:
        ValueError: If `decay` is out of range.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"averaging.decay must be in [0, 1), got {decay}")
        self.decay = decay

    @override
    def _update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        decay = min(self.decay, (1 + count) / (10 + count))
        get_ema_multi_avg_fn(decay)(averages, weights, count)  # type: ignore[no-untyped-call]


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the weights at the end of each epoch from `start_epoch` on.

    Works best with a learning rate that stays high.

    Args:
        start_epoch: First epoch, counted from 0, whose weights are averaged.

    Raises:
        ValueError: If `start_epoch` is negative.
    """

    def __init__(self, start_epoch: int = 0) -> None:
        super().__init__()
        if start_epoch < 0:
            raise ValueError(f"averaging.start_epoch must not be negative, got {start_epoch}")
        self.start_epoch = start_epoch
        self._ends_epoch = False  # whether the last step ended an epoch whose weights are averaged

    @override
    def _update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        get_swa_multi_avg_fn()(averages, weights, count)  # type: ignore[no-untyped-call]

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        assert self._average_model is not None
        # Until the end of epoch `start_epoch`, the average is a copy of the current weights.
        return step_idx is not None and (self._ends_epoch or bool(self._average_model.n_averaged == 0))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._average_model is not None
        self._ends_epoch = trainer.is_last_batch and trainer.current_epoch >= self.start_epoch
        is_copy = not self._ends_epoch and self._average_model.n_averaged == 0
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if is_copy:
            self._average_model.n_averaged.zero_()


def defer_to_fit_end(averaging: WeightAveraging) -> None:
    """Make a callback copy the averaged weights into the model in `on_fit_end`, not in `on_train_end`.

    A checkpoint that is saved in between would lose the raw weights.
    """
    averaging.on_fit_end, averaging.on_train_end = averaging.on_train_end, averaging.on_fit_end  # type: ignore[method-assign]
