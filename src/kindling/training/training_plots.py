"""Plots the training history at the end of a run."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from typing_extensions import override

from kindling.runs.plots import plot_history
from kindling.utils.console import progress
from kindling.utils.errors import logging_errors


class PlotTrainingHistory(Callback):
    """Draws `training_history.png` when training ends, is interrupted or fails.

    Args:
        run_folder: The run folder, which contains `metrics.csv`; by default that of the CSVLogger.
    """

    def __init__(self, run_folder: Path | None = None) -> None:
        self.run_folder = run_folder
        self._folder: Path | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = self.run_folder
        if self.run_folder is None:
            folders = [logger.log_dir for logger in trainer.loggers if isinstance(logger, CSVLogger)]
            if not folders:
                raise ValueError("PlotTrainingHistory needs metrics.csv: train with Trainer(logger=CSVLogger('runs'))")
            self._folder = Path(folders[0])

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self._folder and (self._folder / "metrics.csv").exists():
            with progress("plotting the training history"):
                plot_history(self._folder)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with logging_errors("plotting the training history"):
            self.on_train_end(trainer, pl_module)
