"""Early stopping of a run, as a class distinct from one that users add."""

import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from kindling.training.monitors import DEFAULT_MONITOR, Mode, check_monitor, is_missing, resolve_mode


class RunEarlyStopping(EarlyStopping):
    """Early stopping configured by `--early_stopping` (`patience` null turns it off); users may add another one."""

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if is_fitting and not is_missing(self.monitor, trainer):
            check_monitor("--early_stopping.monitor", self.monitor, trainer)
            super().on_validation_end(trainer, pl_module)


def early_stopping(monitor: str = DEFAULT_MONITOR, mode: Mode = "auto", patience: int | None = 5) -> RunEarlyStopping:
    """Stop training when a metric stops improving; on by default, after 5 validations.

    Args:
        monitor: Metric to monitor.
        mode: Whether lower or higher is better; auto: by its name.
        patience: Validations without an improvement before training stops; null turns early stopping off.
    """
    if patience is None:
        patience = sys.maxsize
    if patience < 0:
        raise ValueError(f"early_stopping.patience must not be negative, got {patience}")
    return RunEarlyStopping(
        monitor, mode=resolve_mode(mode, monitor), patience=patience, check_on_train_epoch_end=False
    )
