"""Makes the metrics of any LightningModule available under standard names."""

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from kindling.runs.metric_names import standard_name


class StandardNames(Callback):
    """Makes metrics such as `val_loss` or `valid_loss` available as `val/loss` too.

    The best checkpoint, early stopping, run.json and progress lines use the standard name; loggers get the original.
    """

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        metrics.update({standard_name(name): value for name, value in metrics.items() if standard_name(name) != name})

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)  # the training metrics of the last epoch are complete only now

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)
