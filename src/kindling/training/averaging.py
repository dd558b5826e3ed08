"""Averages of the weights over training: what is validated, saved, tested, exported and served."""

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
    """Base of `EMA` and `SWA`: validates and saves averaged weights, and trains on with the raw ones.

    `state_dict` of a checkpoint holds the averaged weights; the raw ones, from which training resumes, are stored
    beside them as `current_model_state`. Running statistics of batch norm are averaged as the weights are; counters
    are copied.
    """

    def __init__(self) -> None:
        super().__init__(multi_avg_fn=self._average)

    @abstractmethod
    def _update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        """Update averages of `count` earlier values in place."""

    def _average(self, averages: Any, weights: Any, count: Tensor | int) -> None:
        if averages[0].is_floating_point():  # torch groups them by type
            self._update(averages, weights, int(count))
        else:
            torch._foreach_copy_(averages, weights)  # number of batches that batch norm has seen

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(pl_module, BaseTask):
            pl_module.init_lazy_layers()  # a copy of weights that are still to come would never get them
        super().setup(trainer, pl_module, stage)


class EMA(Averaging):
    """Exponential moving average of the weights, updated after each optimizer step.

    The decay rises to its final value as (1 + n) / (10 + n) over the first n updates, so that the random initial
    weights are soon forgotten, in short trainings too.

    Args:
        decay: Weight of the average so far in each update, in [0, 1). At 0.99 the last few hundred steps count.

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
    """Stochastic weight averaging: the plain mean of the weights at the end of each epoch.

    Works best with a learning rate that stays high. Before `start_epoch` nothing is averaged.

    Args:
        start_epoch: First epoch, counted from 0, whose weights count.

    Raises:
        ValueError: If `start_epoch` is negative.
    """

    def __init__(self, start_epoch: int = 0) -> None:
        super().__init__()
        if start_epoch < 0:
            raise ValueError(f"averaging.start_epoch must not be negative, got {start_epoch}")
        self.start_epoch = start_epoch
        self._counts = False  # whether the step just taken ends an epoch that counts

    @override
    def _update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        get_swa_multi_avg_fn()(averages, weights, count)  # type: ignore[no-untyped-call]

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        assert self._average_model is not None
        # Until the first epoch that counts has ended, the average follows the weights.
        return step_idx is not None and (self._counts or bool(self._average_model.n_averaged == 0))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._average_model is not None
        self._counts = trainer.is_last_batch and trainer.current_epoch >= self.start_epoch
        follows = not self._counts and self._average_model.n_averaged == 0
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if follows:
            self._average_model.n_averaged.zero_()


def defer_to_fit_end(averaging: WeightAveraging) -> None:
    """Make a callback put the average into the model after the last checkpoint is saved, not before.

    Lightning's does so in `on_train_end`, and a last checkpoint saved after that has lost the raw weights.
    """
    averaging.on_fit_end, averaging.on_train_end = averaging.on_train_end, averaging.on_fit_end  # type: ignore[method-assign]
