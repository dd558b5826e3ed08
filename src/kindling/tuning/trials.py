"""What the training of a trial has besides that of an ordinary run: it can be pruned, and shares its data."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from kindling.training import PlotTrainingHistory
from kindling.tuning.shared_data import SharedData

VARIABLE = "KINDLING_TRIAL"  # tells the other processes of a distributed training that they train a trial
Decide = Callable[[int, float, bool], bool]


class PruneTrial(Callback):
    """Stops the training of a trial that is worse than earlier ones.

    Args:
        monitor: Metric of the study.
        decide: Receives the number of completed epochs, the value of the metric and whether the training may stop, and
            returns whether it should; None in all processes but the first, whose decision they follow.
    """

    def __init__(self, monitor: str, decide: Decide | None = None) -> None:
        self.monitor, self.decide = monitor, decide

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        value, epoch = trainer.callback_metrics.get(self.monitor), trainer.current_epoch + 1
        may_stop = epoch >= (trainer.min_epochs or 0) and epoch != trainer.max_epochs  # then it is complete anyway
        stops = bool(self.decide and value is not None and self.decide(epoch, float(value), may_stop))
        if trainer.strategy.broadcast(stops):
            trainer.should_stop = True


@dataclass(frozen=True)
class TrialOptions:
    """How `fit` trains a trial.

    Attributes:
        pruning: Callback that may stop the training.
        data: What the data modules of earlier trials have read.
    """

    pruning: PruneTrial
    data: SharedData = field(default_factory=SharedData)

    @classmethod
    def of_other_process(cls) -> Self | None:
        """Return the options in a process that the first one of a trial has started; None in other processes."""
        monitor = os.environ.get(VARIABLE)
        return cls(PruneTrial(monitor)) if monitor else None

    def adapt(self, callbacks: Iterable[Callback]) -> list[Callback]:
        """Return the callbacks of a run with pruning, and without the plot that takes longer than a short epoch."""
        return [*(one for one in callbacks if not isinstance(one, PlotTrainingHistory)), self.pruning]
