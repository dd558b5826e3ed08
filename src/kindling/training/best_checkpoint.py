"""The best checkpoint and early stopping of a run, told apart from those that users add."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from typing_extensions import override

from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

DEFAULT_MONITOR = "val/loss"


def is_missing(monitor: str | None, trainer: Trainer) -> bool:
    """Return whether the default metric is not logged: a model is not obliged to have a validation loss."""
    return monitor == DEFAULT_MONITOR and monitor not in trainer.callback_metrics


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the checkpoint of the best validation; the last one where no `val/loss` is logged.

    A class of its own, so that its state in a checkpoint never clashes with a ModelCheckpoint that a user adds.

    Args:
        monitor: Metric to compare.
        mode: Whether lower (`min`) or higher (`max`) is better.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        self._is_told = False  # that its metric is not logged
        super().__init__(filename="best", monitor=monitor, mode=mode, enable_version_counter=False)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_missing(self.monitor, trainer):
            super().on_validation_end(trainer, pl_module)
        elif not (self._is_told or trainer.sanity_checking):
            self._is_told = True
            names = join_names(sorted(trainer.callback_metrics)) if trainer.callback_metrics else "nothing"
            logger.warning(
                f"{self.monitor} is not logged, but {names}: best.ckpt will be the last checkpoint, and early stopping "
                "is off; name a metric by --checkpoint.monitor and --early_stopping.monitor"
            )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_missing(self.monitor, trainer):
            return
        validated = any(name.startswith("val/") for name in trainer.callback_metrics)
        if validated or not str(self.monitor).startswith("val/"):
            super().on_train_epoch_end(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.best_model_score is None and trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.best_model_path = str(Path(self.dirpath or ".") / "best.ckpt")
            trainer.save_checkpoint(self.best_model_path)


class RunEarlyStopping(EarlyStopping):
    """Early stopping as `--early_stopping` configures it; a user may add another EarlyStopping."""

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_missing(self.monitor, trainer):
            super().on_validation_end(trainer, pl_module)


def adopt_states(callbacks: Iterable[Callback], states: dict[str, Any]) -> None:
    """Rename the callback states of a checkpoint that was written when these classes were Lightning's own.

    Args:
        callbacks: The callbacks of the trainer.
        states: States by key, as the checkpoint stores them; changed in place.
    """
    for callback in callbacks:
        if isinstance(callback, BestCheckpoint | RunEarlyStopping):
            name, old_name = type(callback).__name__, type(callback).__bases__[0].__name__
            old_key = callback.state_key.replace(name, old_name, 1)
            if callback.state_key not in states and old_key in states:
                states[callback.state_key] = states.pop(old_key)
