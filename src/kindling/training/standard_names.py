"""Metrics of any LightningModule under the names that the rest of Kindling looks for."""

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from kindling.runs.metric_names import standard_name


class StandardNames(Callback):
    """Makes a metric that is logged as `val_loss` or `valid_loss` known as `val/loss` too, and so all others.

    Best checkpoint, early stopping, record and progress lines then work for it; loggers get the name as it is.
    """

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        metrics.update({standard_name(name): value for name, value in metrics.items() if standard_name(name) != name})

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)  # metrics of the last epoch's training are complete only now

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)
