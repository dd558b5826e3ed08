"""The part of a task that measures: the loss and the metrics of each stage, logged once an epoch."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from typing_extensions import override

from kindling.models.batches import batch_size

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")


class MeanLoss(Metric):
    """Mean loss over all samples, NaN included; an update takes a third of the time of torchmetrics' MeanMetric."""

    full_state_update = False  # allows `merge_state`
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, loss: Tensor, samples: int) -> None:
        self.total += loss * samples
        self.samples += samples

    @override
    def compute(self) -> Tensor:
        return self.total / self.samples


class MetricsModule(LightningModule):
    """A LightningModule that collects a mean loss and metrics in each stage."""

    def __init__(self) -> None:
        super().__init__()
        self._metric_modules = nn.ModuleDict()  # loss and metrics of each stage

    def metrics(self) -> MetricCollection | dict[str, Metric]:
        """Return the metrics of a stage by name, each updated with outputs and targets; by default none."""
        return {}

    def metrics_of(self, stage: Stage) -> MetricCollection:
        """Return new metrics of a stage: those of `metrics`, and the ones that only this stage has."""
        metrics = self.metrics()
        return metrics if isinstance(metrics, MetricCollection) else MetricCollection({**metrics})

    def metric_targets(self, targets: Any) -> Any:
        """Return the targets of a training batch, whose samples may be mixed, for the metrics; by default unchanged."""
        return targets

    @override
    def setup(self, stage: str) -> None:
        for name in STAGES:
            self.stage_metrics(name)  # created before the model is moved to its device

    def stage_metrics(self, stage: Stage) -> tuple[MeanLoss, MetricCollection]:
        """Return the mean loss and the metrics that a stage updates."""
        modules: Any = self._metric_modules
        if f"{stage}_loss" not in modules:  # not in `__init__`: `metrics` may need attributes of a subclass
            modules[f"{stage}_loss"] = MeanLoss()
            modules[f"{stage}_metrics"] = self.metrics_of(stage).clone(f"{stage}/")
            modules.to(self.device)
        return modules[f"{stage}_loss"], modules[f"{stage}_metrics"]

    def update_metrics(self, stage: Stage, loss: Tensor, outputs: Any, targets: Any) -> None:
        """Update the mean loss and the metrics of a stage with a batch.

        They are logged once an epoch: `self.log` in each step would take 0.4 ms, a third of a small step.
        """
        mean_loss, metrics = self.stage_metrics(stage)
        mean_loss.update(loss.detach(), batch_size(targets))
        metrics.update(outputs, self.metric_targets(targets) if stage == "train" else targets)

    def _log_epoch(self, stage: Stage) -> None:
        loss, metrics = self.stage_metrics(stage)
        values = {f"{stage}/loss": loss.compute(), **metrics.compute()}  # already reduced over all processes
        if stage != "train" or self.trainer.is_last_batch:
            self.log_dict(values, prog_bar=stage == "val", sync_dist=True)
        else:
            # Training stops within the epoch; resuming drops what is logged after the current step.
            self.trainer.callback_metrics.update(values)
            scalars = {name: float(value) for name, value in values.items()}
            for logger in self.loggers:
                logger.log_metrics({**scalars, "epoch": self.current_epoch}, self.global_step)
        loss.reset()
        metrics.reset()

    @override
    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")


def metric_states(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the states of the metrics of a model in this process, by module name."""
    for module in model.modules():
        if isinstance(module, MetricCollection):
            module.values(copy_state=False)  # copies shared states to all metrics of a compute group
    metrics = {name: module for name, module in model.named_modules() if isinstance(module, Metric)}
    return {name: _to_device(metric.metric_state, "cpu") for name, metric in metrics.items() if metric.update_called}


def restore_metrics(model: nn.Module, states: Sequence[dict[str, dict[str, Any]]]) -> None:
    """Restore the metrics of a model from the merged states of one or more processes."""
    metrics = {name: module for name, module in model.named_modules() if isinstance(module, Metric)}
    for number, stored in enumerate(states):
        # Version 0.1.0 had other names, and counts in a confusion matrix.
        state = {name if name in metrics else f"_metric_modules.{name}": value for name, value in stored.items()}
        for name in state.keys() & metrics.keys():
            metric = metrics[name]
            values = copy.deepcopy(_to_device(state[name], metric.device))  # metrics may share a state, and update it
            if (matrix := values.pop("confmat", None)) is not None:
                values["counts"] = torch.stack([matrix.sum(1), matrix.sum(0), matrix.diag()])
            if number == 0:
                for attribute, value in values.items():
                    setattr(metric, attribute, value)
            elif metric.full_state_update is False:  # else `merge_state` is not supported
                metric.merge_state(values)


def _to_device(state: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    return {
        name: [one.to(device) for one in value] if isinstance(value, list) else value.to(device)
        for name, value in state.items()
    }
