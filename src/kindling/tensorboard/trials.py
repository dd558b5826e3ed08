"""The callback that writes the hyperparameters and metrics of a trial to TensorBoard."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from kindling.tensorboard.dashboard import is_best, metrics_of
from kindling.tensorboard.hyperparameters import collect_hparams, write_hparams
from kindling.tensorboard.logger import SplitLogger
from kindling.training.output_collector import TestOutputCollector


class TrialDashboard(TestOutputCollector):
    """Write the HParams tab when a trial ends; trials write no other tabs except curves.

    The many trials of a study need no pictures, histograms and predictions, which take longer than a short epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, float] = {}  # of the best epoch

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self._metrics}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._metrics = state_dict["metrics"]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and is_best(trainer):
            self._metrics = metrics_of(trainer, "val")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, SplitLogger) and trainer.is_global_zero:
                values = collect_hparams(trainer, pl_module)
                write_hparams(logger.writer("test"), values, self._metrics, trainer.global_step)
