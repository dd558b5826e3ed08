"""The best checkpoint of a run, as a class distinct from a ModelCheckpoint that users add."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from kindling.training.monitors import DEFAULT_MONITOR, Mode, check_monitor, is_missing, resolve_mode
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt` at the best validation; at the end of training if no `val/loss` is logged.

    A separate class, so that its state in a checkpoint never clashes with a ModelCheckpoint that a user adds.

    Args:
        monitor: Metric to monitor.
        mode: Whether lower (`min`) or higher (`max`) is better.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        self._has_warned = False
        super().__init__(filename="best", monitor=monitor, mode=mode, enable_version_counter=False)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:  # not all metrics are logged
            return
        if not is_missing(self.monitor, trainer):
            if str(self.monitor).startswith("val/"):
                check_monitor("--checkpoint.monitor", self.monitor, trainer)
            with self._naming_the_option(trainer):
                super().on_validation_end(trainer, pl_module)
        elif not self._has_warned:
            self._has_warned = True
            names = join_names(sorted(trainer.callback_metrics)) if trainer.callback_metrics else "nothing"
            logger.warning(
                f"{self.monitor} is not logged, only {names}: best.ckpt will be the last checkpoint and early "
                "stopping is off; choose a metric with --checkpoint.monitor and --early_stopping.monitor"
            )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_missing(self.monitor, trainer):
            return
        validated = any(name.startswith("val/") for name in trainer.callback_metrics)
        if validated or not str(self.monitor).startswith("val/"):
            with self._naming_the_option(trainer):
                super().on_train_epoch_end(trainer, pl_module)

    @contextmanager
    def _naming_the_option(self, trainer: Trainer) -> Iterator[None]:
        """Replace Lightning's error about a metric that is not logged, which does not name the option."""
        try:
            yield
        except MisconfigurationException:
            check_monitor("--checkpoint.monitor", self.monitor, trainer)
            raise

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.best_model_score is None and trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.best_model_path = str(Path(self.dirpath or ".") / "best.ckpt")
            trainer.save_checkpoint(self.best_model_path)


def best_checkpoint(
    monitor: str = DEFAULT_MONITOR,
    mode: Mode = "auto",
    every_n_minutes: float = 10.0,
    every_n_steps: int | None = None,
) -> BestCheckpoint:
    """Save the checkpoint with the best validation metric, best.ckpt, and the last one, last.ckpt.

    Args:
        monitor: Metric to monitor.
        mode: Whether lower or higher is better; auto: by its name.
        every_n_minutes: Minutes between saves of last.ckpt during an epoch; it is always saved after each epoch.
        every_n_steps: Also save last.ckpt every N optimizer steps; null turns this off.
    """
    for name, value in {"every_n_minutes": every_n_minutes, "every_n_steps": every_n_steps}.items():
        if value is not None and not value > 0:
            raise ValueError(f"checkpoint.{name} must be greater than 0, got {value}")
    return BestCheckpoint(monitor, resolve_mode(mode, monitor))
