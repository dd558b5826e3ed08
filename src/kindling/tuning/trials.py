"""Training of a trial: an ordinary run that can be pruned, and shares its data with other trials."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from kindling.data import BaseDataModule
from kindling.training import PlotTrainingHistory

VARIABLE = "KINDLING_TRIAL"  # tells the other processes of a distributed training that they train a trial
Decide = Callable[[int, float, bool], bool]
# Arguments of `BaseDataModule` that only its data loaders use.
OF_LOADERS = ("batch_size", "eval_batch_size", "num_workers")
OF_RUNS = ("trainer", "batch_size")  # attributes that each data module sets itself


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


class SharedData:
    """Passes what one data module has read on to the next one with the same arguments."""

    def __init__(self) -> None:
        self._last: BaseDataModule | None = None
        self._arguments: dict[str, Any] = {}
        self._new: dict[str, Any] = {}  # attributes of the last one when it was new

    def share(self, data: Any, arguments: Mapping[str, Any]) -> None:
        """Let a new data module take over what the last one has read, if only arguments of their loaders differ.

        One that is not Kindling's own is left alone, as it may keep a state of its training.
        """
        if not isinstance(data, BaseDataModule) or not type(data).__module__.startswith("kindling."):
            return
        kept = {name: value for name, value in arguments.items() if name not in OF_LOADERS}
        new = dict(vars(data))
        is_read = hasattr(self._last, "train") and type(data) is type(self._last) and kept == self._arguments
        for name, value in vars(self._last).items() if is_read else ():
            is_typed = name == "num_workers" and data.num_workers > 0
            if name not in OF_RUNS and not is_typed and not (name in self._new and self._new[name] is value):
                setattr(data, name, value)
        self._last, self._arguments, self._new = data, kept, new


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
