"""One progress bar in a terminal, one line an epoch in a log file."""

import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from typing_extensions import override


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without a second one for validation; where the output is no terminal, a line an epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self.in_terminal = sys.stdout.isatty()

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
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer)
        self._print_epoch(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._print_epoch(trainer)

    def _print_epoch(self, trainer: Trainer) -> None:
        """Prints the figures of the epoch that is over; they are complete only when the next one starts."""
        measured = [name for name in trainer.callback_metrics if name.startswith("val/") and name != "val/loss"]
        names: tuple[str, ...] = (
            "train/loss",
            "val/loss",
            "val/accuracy" if "val/accuracy" in measured else "".join(measured[:1]),
        )
        if not set(names).intersection(trainer.callback_metrics):  # of a model that logs other metrics
            names = tuple(trainer.callback_metrics)[:3]
        figures = [f"{name} {trainer.callback_metrics[name]:.4f}" for name in names if name in trainer.callback_metrics]
        if figures and not self.in_terminal and trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch}/{trainer.max_epochs}", *figures, sep="  ", flush=True)
