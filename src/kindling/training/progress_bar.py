"""One progress bar in a terminal, one line an epoch in a log file."""

import re
import sys
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from typing_extensions import override

from kindling.runs.metric_names import split_of
from kindling.utils.text import format_metric

MOST = 3  # metrics without a split in an epoch's line
RATE = re.compile(r"lr(-|$)")  # what LearningRateMonitor logs


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without a second one for validation; where the output is no terminal, a line an epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self.in_terminal = sys.stdout.isatty()
        self._batches = 0  # whose figures are printed, by this session or the one that it resumes

    @property
    @override
    def is_enabled(self) -> bool:
        return self.in_terminal and super().is_enabled

    @override
    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    @override
    def init_test_tqdm(self) -> Tqdm:
        bar = super().init_test_tqdm()
        bar.leave = False  # the table of results takes its place
        return bar

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._batches = batches_trained(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer)
        self._print_epoch(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._print_epoch(trainer)

    def _print_epoch(self, trainer: Trainer) -> None:
        """Print the metrics of the epoch that is over; they are complete only when the next one starts."""
        if batches_trained(trainer) == self._batches:
            return
        self._batches = batches_trained(trainer)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = [f"{name} {format_metric(metrics[name])}" for name in epoch_metrics(list(metrics))]
        if shown and not self.in_terminal and trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch}/{trainer.max_epochs}", *shown, sep="  ", flush=True)


def epoch_metrics(names: Sequence[str]) -> list[str]:
    """Return the metrics to print after an epoch: the losses, the first other metric, and those without a split.

    Examples:
        >>> epoch_metrics(["loss", "acc_step", "acc_epoch", "acc", "lr-Adam", "val/f1", "val/loss"])
        ['loss', 'acc', 'val/loss', 'val/f1']
        >>> epoch_metrics(["critic_loss", "generator_loss"])
        ['critic_loss', 'generator_loss']
        >>> epoch_metrics(["train/acc"])
        ['train/acc']
    """
    measured = [name for name in names if name.startswith("val/") and name != "val/loss"]
    metric = ["val/accuracy"] if "val/accuracy" in measured else measured[:1]
    forms = {f"{name}_{form}" for name in names for form in ("step", "epoch")}  # Lightning logs all three
    plain = [name for name in names if not split_of(name)[0] and name not in forms and not RATE.match(name)]
    shown = [name for name in ("train/loss", *plain[:MOST], "val/loss", *metric) if name in names]
    return shown or list(names[:MOST])


def batches_trained(trainer: Trainer) -> int:
    """Return the number of training batches so far, of all sessions of a run."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed
