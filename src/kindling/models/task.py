"""The base class of all tasks: training step, loss and metrics per stage, optimizer and schedule."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Literal, Self

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, instantiate_class
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection
from typing_extensions import override

from kindling.models.batches import as_pair, batch_size, check_batches
from kindling.models.infer import UnknownShape, infer_arguments, with_shape
from kindling.models.metrics import MeanLoss
from kindling.models.schedules import restart_schedule, scaled_learning_rates, scheduler_config
from kindling.runs.signatures import sign_checkpoint
from kindling.utils.hyperparameters import make_hparams_plain, to_class_path
from kindling.utils.shared_batches import has_samples, synchronizes_batch_norm

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")

# A plain dict: checkpoints can store it, and `--model.optimizer.lr 0.01` works without naming the class.
ADAM: Any = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}

# Model arguments that describe the data; a data module provides them as attributes.
DATA_ARGUMENTS = ("num_classes", "input_shape", "mean", "std", "class_names", "numeric_features")

Task = Literal["classification", "regression", "multilabel"]

# For each task, what the targets of a sample are, and a model for them.
TARGETS: dict[Task, tuple[str, str]] = {
    "classification": ("classes", "a classifier"),
    "regression": ("numbers", "a regression model such as MLPRegressor"),
    "multilabel": ("several classes per sample", "a multi-label classifier such as MLPMultiLabelClassifier"),
}


def check_task(model: type["BaseTask"], data: object) -> None:
    """Raise ValueError if a model predicts something else than the targets of a data module."""
    found = getattr(data, "task", None)
    if model.task is None or found not in TARGETS or found == model.task:
        return
    targets, advice = TARGETS[found]
    if "task" in getattr(data, "hparams", {}):
        advice += f", or --data.task {model.task}"
    raise ValueError(f"{model.__name__} predicts {TARGETS[model.task][0]}, but the targets are {targets}: use {advice}")


class BaseTask(LightningModule):
    """Base of all tasks: a subclass passes `**kwargs` to `super().__init__`, sets `self.network` and implements `loss`.

    A batch is a pair (inputs, targets). A single float tensor of inputs is normalized with `mean` and `std` and passed
    to the network; several inputs are passed unchanged, a tuple by position and a dictionary by name. A model with
    several inputs must set `example_input_array` to those of one sample to be exported. Targets may have any structure
    that `loss` and `metrics` accept.

    In place of a network, a subclass may define `forward`, which takes the inputs in the same way, for example
    `forward(self, image, row)`, and normalizes them with `self.normalize`.

    Arguments that describe the data come from the data module if it provides them: `kindling fit` and `for_data` pass
    them on.

    Args:
        input_shape: Shape of one sample, for example (C, H, W) or (F,). If the network needs it and the data module
            does not provide it, `kindling fit` and `for_data` infer it from training samples.
        mean: Mean of the inputs per channel or feature; a single value applies to all.
        std: Standard deviation of the inputs per channel or feature.
        optimizer: Any torch optimizer.
        lr_scheduler: Any torch scheduler, stepped after each epoch. A scheduler whose `step` takes a metric
            monitors `val/loss`. `OneCycle`, which peaks at the learning rate of the optimizer, and torch's `OneCycleLR`
            and `CyclicLR` are stepped after each optimizer step instead; `total_steps` of a cycle defaults to the steps
            of the run.
        warmup_epochs: Number of epochs (may be fractional) in which the learning rate rises linearly, batch by batch,
            to that of the scheduler.
        compile: Whether to compile the network with `torch.compile`, which takes about half a minute.

    Raises:
        ValueError: If an argument is out of its range.
    """

    task: ClassVar[Task | None] = None  # the task of data modules that it fits
    data_arguments: ClassVar[tuple[str, ...]] = ("input_shape", "mean", "std")  # subset of `DATA_ARGUMENTS`
    network: nn.Module
    num_outputs: int  # outputs of the network per sample, set by the base class of each task
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (),
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        optimizer: OptimizerCallable = ADAM,
        lr_scheduler: LRSchedulerCallable | None = None,
        warmup_epochs: float = 0.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative, got {warmup_epochs}")
        self.save_hyperparameters()
        make_hparams_plain(self)
        # Hyperparameters unless a subclass without **kwargs sets them: its own arguments alone are saved.
        self.training_options = {
            name: self.hparams.get(name, to_class_path(value) if callable(value) else value)
            for name, value in {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "compile": compile}.items()
        }
        self.input_shape = tuple(input_shape) or UnknownShape.of(self)
        self._seen_shapes: set[tuple[int, ...]] = set()  # of training samples that are one float tensor; at most two
        self.warmup_epochs = warmup_epochs
        self.schedule_start = 0  # optimizer step at which the current schedule started
        # Steps that the completed epochs would have taken with the current batches, minus the steps taken: not 0
        # after resuming with another batch size, for example.
        self.step_offset = 0
        per_channel = (-1,) + (1,) * max(0, len(input_shape) - 1)
        self._counted = nn.ModuleDict()  # loss and metrics of each stage
        self.register_buffer("mean", torch.tensor(mean).view(per_channel))
        self.register_buffer("std", torch.tensor(std).view(per_channel))

    @classmethod
    def for_data(cls, data: LightningDataModule, **arguments: Any) -> Self:
        """Return a model whose input shape, classes and normalization come from a data module.

        Args:
            data: The data module.
            **arguments: Other arguments of the model; they override those of the data module.

        Raises:
            ValueError: If the model predicts something else than the targets, such as classes instead of numbers.
        """
        check_task(cls, data)
        known = {name: getattr(data, name) for name in cls.data_arguments if hasattr(data, name)} | arguments
        if "num_classes" in cls.data_arguments and "num_classes" not in known:
            known = infer_arguments(data, ["num_classes", "class_names"]) | known
        return with_shape(partial(cls, **known), data)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            outputs: Outputs of `forward`.
            targets: The second item of the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss: define `def loss(self, outputs, targets)`")

    def reported_loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch, given what `test_step` returns; see `loss`."""
        return self.loss(outputs, targets)

    def check_targets(self, outputs: Any, targets: Any) -> None:
        """Raise ValueError if the targets of a batch are of the wrong kind for the outputs; by default never."""

    def metrics(self) -> MetricCollection | dict[str, Metric]:
        """Return the metrics of a stage by name, each updated with outputs and targets; by default none."""
        return {}

    def measured_targets(self, targets: Any) -> Any:
        """Return the targets of a training batch, whose samples may be mixed, for the metrics; by default unchanged."""
        return targets

    def calibrate(self, outputs: Any) -> Any:
        """Return the outputs of a batch as metrics and predictions use them; by default unchanged."""
        return outputs

    def to_prediction(self, outputs: Any) -> Any:
        """Return the predictions that `kindling predict` writes for the outputs of a batch; by default the outputs."""
        return outputs

    def dropouts(self, dropout: float, layers: int) -> list[float]:
        """Return the dropout probability of each of a number of hidden layers; by default the same for all."""
        return [dropout] * layers

    @property
    def core(self) -> nn.Module:
        """The module that computes the outputs: `network`, or the task itself if it has only a `forward` of its own.

        Raises:
            ValueError: If it has neither.
        """
        network: nn.Module | None = getattr(self, "network", None)
        if network is not None:
            return network
        if type(self).forward.__module__.startswith("kindling."):  # those call the network
            name = type(self).__name__
            raise ValueError(f"{name} has no network: set self.network in its __init__, or define forward")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: `input_shape`, or that of the example or of all training samples; () if unknown."""
        example = self.example_input_array
        if not self.input_shape and isinstance(example, Tensor) and example.is_floating_point():
            return tuple(example.shape[1:])
        return self.input_shape or (() if len(self._seen_shapes) != 1 else next(iter(self._seen_shapes)))

    @property
    def has_example(self) -> bool:
        """Whether `example_inputs` can be called."""
        return bool(self.sample_shape) or self.example_input_array is not None

    def example_inputs(self) -> Any:
        """Return the inputs of one sample: `example_input_array` if the model sets it, else zeros."""
        if self.example_input_array is not None:
            return self.example_input_array
        return torch.zeros(1, *(self.sample_shape or self.input_shape))  # an unknown one raises an error

    @property
    def lacks_shape(self) -> bool:
        """Whether the input shape is unknown but needed, for lazy layers or to normalize per channel."""
        is_lazy = self.has_lazy_layers and self.example_input_array is None
        return not self.input_shape and (is_lazy or self.mean.numel() > 1)

    @property
    def has_lazy_layers(self) -> bool:
        """Whether any lazy layer is not initialized yet."""
        return any(isinstance(parameter, nn.UninitializedParameter) for parameter in self.parameters())

    def init_lazy_layers(self) -> None:
        """Initialize lazy layers, if there are any, by a forward pass of one sample."""
        if self.has_lazy_layers:
            with torch.no_grad():
                self.eval().outputs_for(self.example_inputs())
            self.train()

    @override
    def setup(self, stage: str) -> None:
        self.init_lazy_layers()
        for name in STAGES:
            self._stage_metrics(name)  # created before the model is moved to its device
        if stage == "fit":
            self.schedule_start = self.step_offset = 0
            if self.training_options["compile"]:
                self.core.compile()

    @override
    def on_fit_start(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "train") and hasattr(data, "batch_size"):
            synchronized = synchronizes_batch_norm(self.trainer)
            check_batches(self, data.batch_size, len(data.train), self.trainer.world_size, synchronized)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Return inputs (N, ...) standardized with `mean` and `std`; integers, such as token IDs, are not changed."""
        return (inputs - self.mean) / self.std if inputs.is_floating_point() else inputs

    @override
    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Return the outputs of the network; several inputs may be separate arguments, a tuple or a dictionary."""
        match inputs:
            case [Tensor() as one]:
                outputs = self.network(self.normalize(one), **kwargs)
            case [dict() as several]:
                outputs = self.network(**several)
            case [tuple() | list() as several]:
                outputs = self.network(*several)
            case _:
                outputs = self.network(*inputs, **kwargs)
        return outputs.float() if isinstance(outputs, Tensor) else outputs

    def outputs_for(self, inputs: Any) -> Any:
        """Call `forward` with the inputs of a batch: a tuple by position, a dictionary by name.

        Raises:
            ValueError: If `forward` does not take them.
        """
        named = inputs if isinstance(inputs, dict) else {}
        by_position = () if named else inputs if isinstance(inputs, tuple | list) else (inputs,)
        try:
            return self(*by_position, **named)
        except TypeError as error:
            try:
                signature(self.forward).bind(*by_position, **named)
            except TypeError as mismatch:
                names = ", ".join(named or (f"input{number}" for number in range(1, len(by_position) + 1)))
                advice = f"define forward(self, {names})"
                raise ValueError(
                    f"{type(self).__name__}.forward does not take a sample: {mismatch}; {advice}"
                ) from error
            raise

    def shared_step(self, batch: Any, stage: Stage) -> tuple[Tensor, Any]:
        """Compute the loss of a batch and update the metrics of a stage.

        Returns:
            The mean loss and the outputs.
        """
        inputs, targets = as_pair(batch, self)
        if stage == "train":
            self._note_shape(inputs)
        loss, outputs = self.loss_and_outputs(inputs, targets)
        if stage == "train" and not has_samples(self._trainer):
            return loss, outputs
        # Logged once an epoch: `self.log` in each step would take 0.4 ms, a third of a small step.
        mean_loss, metrics = self._stage_metrics(stage)
        mean_loss.update(loss.detach(), batch_size(targets))
        metrics.update(self.calibrate(outputs), self.measured_targets(targets) if stage == "train" else targets)
        return loss, outputs

    def loss_and_outputs(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        """Return the mean loss of a batch, and the outputs for the metrics."""
        outputs = self.outputs_for(inputs)
        self.check_targets(outputs, targets)
        return self.loss(outputs, targets), outputs

    def _note_shape(self, inputs: Any) -> None:
        """Note the shape of training samples; a second one shows that it varies."""
        if len(self._seen_shapes) < 2 and isinstance(inputs, Tensor) and inputs.is_floating_point():
            self._seen_shapes.add(tuple(inputs.shape[1:]))

    def metrics_of(self, stage: Stage) -> MetricCollection:
        """Return new metrics of a stage: those of `metrics`, and the ones that only this stage has."""
        metrics = self.metrics()
        return metrics if isinstance(metrics, MetricCollection) else MetricCollection({**metrics})

    def _stage_metrics(self, stage: Stage) -> tuple[MeanLoss, MetricCollection]:
        if f"{stage}_loss" not in self._counted:  # not in `__init__`: `metrics` may need attributes of a subclass
            self._counted[f"{stage}_loss"] = MeanLoss()
            self._counted[f"{stage}_metrics"] = self.metrics_of(stage).clone(f"{stage}/")
            self._counted.to(self.device)
        return self._counted[f"{stage}_loss"], self._counted[f"{stage}_metrics"]  # type: ignore[return-value]

    def _log_epoch(self, stage: Stage) -> None:
        loss, metrics = self._stage_metrics(stage)
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
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.shared_step(batch, "train")[0]

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.shared_step(batch, "val")[1]

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.shared_step(batch, "test")[1]

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.to_prediction(self.outputs_for(as_pair(batch, self)[0]))

    @override
    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups; `lr_scale` scales the learning rate of a group, `name` labels it in logs."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def schedule_steps(self, start: int) -> int:
        """Return the optimizer steps of a schedule that starts at step `start`, counted with the current batches."""
        return int(self.trainer.estimated_stepping_batches) - start

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | Optimizer:
        optimizer: Optimizer = instantiate_class((self.parameter_groups(),), self.training_options["optimizer"])
        factory = self.training_options["lr_scheduler"]
        if factory is None:
            return optimizer
        steps = partial(self.schedule_steps, self.schedule_start + self.step_offset)
        every_n_epochs = self.trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": scheduler_config(optimizer, factory, steps, every_n_epochs)}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["schedule_start"] = self.schedule_start
        checkpoint["sample_shapes"] = sorted(map(list, self._seen_shapes))
        checkpoint.update(sign_checkpoint(checkpoint))

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.schedule_start = checkpoint.get("schedule_start", 0)  # not in checkpoints of other Trainers
        self.restore_learned(checkpoint)

    def restore_learned(self, checkpoint: dict[str, Any]) -> None:
        """Restore what training has found besides the weights: here the shapes of the training samples.

        Checkpoints of earlier versions lack them.
        """
        self._seen_shapes = set(map(tuple, checkpoint.get("sample_shapes", ())))

    def restart_lr_schedule(self, checkpoint: dict[str, Any]) -> None:
        """Restart the schedule of a resumed run over the remaining steps.

        Momentum is kept if the class of the optimizer is the same.

        Args:
            checkpoint: The checkpoint that is about to be loaded; changed in place.
        """
        self.schedule_start = checkpoint["global_step"]
        configured = self.configure_optimizers()
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        restart_schedule(checkpoint, optimizer, self.training_options["optimizer"])

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        steps = self.warmup_epochs * self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup_factor = min(1.0, (self.global_step + 1 - self.schedule_start) / steps) if steps else 1.0
        with scaled_learning_rates(optimizer, warmup_factor):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
