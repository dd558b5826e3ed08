"""The best checkpoint and early stopping of a run, as classes distinct from callbacks that users add."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from kindling.utils.text import join_names, suggest

logger = logging.getLogger(__name__)

DEFAULT_MONITOR = "val/loss"


def is_missing(monitor: str | None, trainer: Trainer) -> bool:
    """Return whether `monitor` is the default metric but was not logged (a model may log no `val/loss`)."""
    return monitor == DEFAULT_MONITOR and monitor not in trainer.callback_metrics


def check_monitor(option: str, monitor: str | None, trainer: Trainer) -> None:
    """Check that a monitored metric is logged.

    Raises:
        ValueError: If not, with the option that sets it and the metrics that are logged.
    """
    names = sorted(trainer.callback_metrics)
    if monitor in names:
        return
    raise ValueError(
        f"{option} {monitor}: no such metric is logged{suggest(str(monitor), names)} (logged so far: "
        f"{join_names(names)})"
    )


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
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"has_warned": self._has_warned}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._has_warned = state_dict.get("has_warned", False)  # not in checkpoints of earlier versions
        super().load_state_dict(state_dict)

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


class RunEarlyStopping(EarlyStopping):
    """Early stopping configured by `--early_stopping` (`patience` null turns it off); users may add another one."""

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if is_fitting and not is_missing(self.monitor, trainer):
            check_monitor("--early_stopping.monitor", self.monitor, trainer)
            super().on_validation_end(trainer, pl_module)


def adopt_states(callbacks: Iterable[Callback], states: dict[str, Any]) -> None:
    """Rename the callback states of an old checkpoint, written with Lightning's ModelCheckpoint and EarlyStopping.

    Args:
        callbacks: The callbacks of the Trainer.
        states: Callback states of the checkpoint by key; changed in place.
    """
    for callback in callbacks:
        if isinstance(callback, BestCheckpoint | RunEarlyStopping):
            name, old_name = type(callback).__name__, type(callback).__bases__[0].__name__
            old_key = callback.state_key.replace(name, old_name, 1)
            if callback.state_key not in states and old_key in states:
                states[callback.state_key] = states.pop(old_key)
