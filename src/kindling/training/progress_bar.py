"""A single progress bar in a terminal, one line per epoch elsewhere."""

import re
import sys
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from typing_extensions import override

from kindling.runs.metric_names import split_of
from kindling.utils.console_idle import note_output
from kindling.utils.text import format_metric

MAX_METRICS = 3  # number of metrics without a split that are printed after an epoch
LEARNING_RATE = re.compile(r"lr(-|$)")  # names logged by LearningRateMonitor


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar without the one for validation; outside of a terminal, prints one line per epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self.in_terminal = sys.stdout.isatty()
        self._batches = 0  # batches trained when metrics were last printed

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
        bar.leave = False  # replaced by the table of results
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
        """Print the metrics of the last epoch; they are complete only when the next one starts."""
        if batches_trained(trainer) == self._batches:
            return
        self._batches = batches_trained(trainer)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = [f"{name} {format_metric(metrics[name])}" for name in epoch_metrics(list(metrics))]
        if shown and not self.in_terminal and trainer.is_global_zero:
            note_output()
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
    validation = [name for name in names if name.startswith("val/") and name != "val/loss"]
    metric = ["val/accuracy"] if "val/accuracy" in validation else validation[:1]
    variants = {f"{name}_{suffix}" for name in names for suffix in ("step", "epoch")}  # Lightning logs all three
    plain = [name for name in names if not (split_of(name)[0] or name in variants or LEARNING_RATE.match(name))]
    shown = [name for name in ("train/loss", *plain[:MAX_METRICS], "val/loss", *metric) if name in names]
    return shown or list(names[:MAX_METRICS])


def batches_trained(trainer: Trainer) -> int:
    """Return the number of training batches of a run so far, including those before it was resumed."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed
