"""What all tasks share: the training step, the loss and metrics of a stage, the optimizer and its schedule."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, instantiate_class
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric, MetricCollection
from typing_extensions import override

from kindling.models.batches import check_batches
from kindling.models.infer import UnknownShape, infer_arguments, with_shape
from kindling.models.metrics import MeanLoss
from kindling.models.schedules import restart, scaled_rates, scheduler_config
from kindling.runs.trust import sign_checkpoint
from kindling.utils.hyperparameters import make_hparams_plain

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")

# A plain dict: a checkpoint stores it as it is, and `--model.optimizer.lr 0.01` works without naming the class.
ADAM: Any = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}

# Arguments of models that describe the data, which a data module that knows them has as attributes.
DATA_ARGUMENTS = ("num_classes", "input_shape", "mean", "std", "class_names")


class BaseTask(LightningModule):
    """Base of Kindling's tasks: a subclass passes `**kwargs` up, sets `self.network`, and implements `loss`.

    A batch is a pair (inputs, targets). The network takes the inputs, normalised with `mean` and `std` where they are
    one tensor of floats; several inputs are passed to it as they are, a tuple by position and a dictionary by name. A
    model with several inputs sets `example_input_array` to those of one sample, which its export needs. Targets may
    have any structure that `loss` and `metrics` take.

    The arguments that describe the data come from the data module, where it has them: `kindling fit` links them,
    `for_data` passes them.

    Args:
        input_shape: Shape of one sample, (C, H, W) or (F,) for example. Where it is not known and the network needs it,
            `kindling fit` and `for_data` read it from training samples.
        mean: Mean of the inputs by channel or feature; a single value serves all.
        std: Standard deviation of the inputs by channel or feature.
        optimizer: Any torch optimizer.
        lr_scheduler: Any torch scheduler, stepped after each epoch. `ReduceLROnPlateau` watches `val/loss`;
            `OneCycle`, with the rate of the optimizer as its peak, and torch's `OneCycleLR` are stepped after each
            batch and told the number of steps.
        warmup_epochs: Epochs (a fraction will do) in which the learning rate rises linearly, batch by batch, to the
            rate of the scheduler.
        compile: Whether to compile the network with `torch.compile`; worth its half minute in long runs.

    Raises:
        ValueError: If an argument is out of its range.
    """

    data_arguments: ClassVar[tuple[str, ...]] = ("input_shape", "mean", "std")  # those of `DATA_ARGUMENTS` it takes
    network: nn.Module
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
            raise ValueError(f"warmup_epochs must not be negative: {warmup_epochs}")
        self.save_hyperparameters()
        make_hparams_plain(self)
        self.input_shape = tuple(input_shape) or UnknownShape.of(self)
        self.warmup_epochs = warmup_epochs
        self.schedule_start = 0  # optimizer steps before the schedule: not 0 where a new one begins on the way
        # How many more steps the epochs so far would have had with batches as they are now: not 0 where a run has
        # resumed with another batch size, for example.
        self.step_offset = 0
        per_channel = (-1,) + (1,) * max(0, len(input_shape) - 1)
        self._counted = nn.ModuleDict()  # loss and metrics of each stage
        self.register_buffer("mean", torch.tensor(mean).view(per_channel))
        self.register_buffer("std", torch.tensor(std).view(per_channel))

    @classmethod
    def for_data(cls, data: LightningDataModule, **arguments: Any) -> Self:
        """Return the model for `data`, which tells it shape, classes and normalisation.

        Args:
            data: A data module.
            **arguments: All other arguments of the model.
        """
        known = {name: getattr(data, name) for name in cls.data_arguments if hasattr(data, name)} | arguments
        if "num_classes" in cls.data_arguments and "num_classes" not in known:
            known = infer_arguments(data, ["num_classes", "class_names"]) | known
        return with_shape(partial(cls, **known), data)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            outputs: What `forward` gives.
            targets: The second part of a batch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss: write `def loss(self, outputs, targets)`")

    def metrics(self) -> MetricCollection | dict[str, Metric]:
        """Return the metrics of a stage by name, each updated with outputs and targets; by default there are none."""
        return {}

    def to_prediction(self, outputs: Any) -> Any:
        """Return what `kindling predict` writes for the outputs of a batch; by default the outputs."""
        return outputs

    @property
    def has_example(self) -> bool:
        """Whether it is known what the inputs of a sample look like."""
        return bool(self.input_shape) or self.example_input_array is not None

    def example_inputs(self) -> Any:
        """Return the inputs of one sample: `example_input_array` where the model sets it, else zeros."""
        return torch.zeros(1, *self.input_shape) if self.example_input_array is None else self.example_input_array

    @property
    def lacks_shape(self) -> bool:
        """Whether the shape of inputs is unknown, but needed for lazy layers or to normalise by channel."""
        is_lazy = self._has_lazy_layers and self.example_input_array is None
        return not self.input_shape and (is_lazy or self.mean.numel() > 1)

    @property
    def _has_lazy_layers(self) -> bool:
        return any(isinstance(parameter, nn.UninitializedParameter) for parameter in self.parameters())

    def init_lazy_layers(self) -> None:
        """Give lazy layers, where there are any, the shapes that a sample brings."""
        if self._has_lazy_layers:
            with torch.no_grad():
                self.eval()(self.example_inputs())
            self.train()

    @override
    def setup(self, stage: str) -> None:
        self.init_lazy_layers()
        for name in STAGES:
            self._stage_metrics(name)  # before the model is moved to its device
        if stage == "fit":
            self.schedule_start = self.step_offset = 0
        if stage == "fit" and self.hparams["compile"]:
            self.network.compile()

    @override
    def on_fit_start(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "train") and hasattr(data, "batch_size"):
            check_batches(self, data.batch_size, len(data.train), self.trainer.world_size)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Return inputs (N, ...) standardised with `mean` and `std`; integers, of tokens for example, as they are."""
        return (inputs - self.mean) / self.std if inputs.is_floating_point() else inputs

    @override
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the outputs of the network; several inputs may be given one by one, or as a tuple or dictionary."""
        match inputs:
            case [Tensor() as one]:
                outputs = self.network(self.normalize(one), **named)
            case [dict() as several]:
                outputs = self.network(**several)
            case [tuple() | list() as several]:
                outputs = self.network(*several)
            case _:
                outputs = self.network(*inputs, **named)
        return outputs.float() if isinstance(outputs, Tensor) else outputs

    def shared_step(self, batch: Any, stage: Stage) -> tuple[Tensor, Any]:
        """Compute the loss of a batch and update the metrics of a stage.

        Returns:
            The mean loss, and the outputs.
        """
        inputs, targets = as_pair(batch, self)
        outputs = self(inputs)
        loss = self.loss(outputs, targets)
        # Counted here and logged once an epoch: `self.log` in each step would cost 0.4 ms, a third of a small step.
        mean_loss, metrics = self._stage_metrics(stage)
        mean_loss.update(loss.detach(), batch_size(targets))
        metrics.update(outputs, targets)
        return loss, outputs

    def _stage_metrics(self, stage: Stage) -> tuple[MeanLoss, MetricCollection]:
        if f"{stage}_loss" not in self._counted:  # `metrics` may need what a subclass sets after this class is set up
            metrics = self.metrics()
            metrics = metrics if isinstance(metrics, MetricCollection) else MetricCollection({**metrics})
            self._counted[f"{stage}_loss"] = MeanLoss()
            self._counted[f"{stage}_metrics"] = metrics.clone(f"{stage}/")
            self._counted.to(self.device)
        return self._counted[f"{stage}_loss"], self._counted[f"{stage}_metrics"]  # type: ignore[return-value]

    def _log_epoch(self, stage: Stage) -> None:
        loss, metrics = self._stage_metrics(stage)
        figures = {f"{stage}/loss": loss.compute(), **metrics.compute()}  # summed over all processes already
        if stage != "train" or self.trainer.is_last_batch:
            self.log_dict(figures, prog_bar=stage == "val", sync_dist=True)
        else:
            # Training stops within the epoch. When it resumes, it drops what was logged after the steps so far.
            self.trainer.callback_metrics.update(figures)
            values: dict[str, float] = {name: float(value) for name, value in figures.items()}
            for logger in self.loggers:
                logger.log_metrics({**values, "epoch": self.current_epoch}, self.global_step)
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
        return self.to_prediction(self(as_pair(batch, self)[0]))

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
        """What the optimizer gets: `lr_scale` of a group multiplies what the schedule says, `name` is for logs."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def schedule_steps(self, began: int) -> int:
        """Return the optimizer steps of a schedule that begins after `began` of them, counted with batches as now."""
        return int(self.trainer.estimated_stepping_batches) - began

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | Optimizer:
        optimizer: Optimizer = instantiate_class((self.parameter_groups(),), self.hparams["optimizer"])
        factory = self.hparams["lr_scheduler"]
        if factory is None:
            return optimizer
        steps = partial(self.schedule_steps, self.schedule_start + self.step_offset)
        every_n_epochs = self.trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": scheduler_config(optimizer, factory, steps, every_n_epochs)}

    @property
    def is_fitting(self) -> bool:
        """Whether a Trainer trains this model now, or is about to."""
        return self._trainer is not None and self._trainer.state.fn == "fit"

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["schedule_start"] = self.schedule_start
        checkpoint.update(sign_checkpoint(checkpoint))

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.schedule_start = checkpoint.get("schedule_start", 0)  # checkpoints of other Trainers have none

    def restart_lr_schedule(self, checkpoint: dict[str, Any]) -> None:
        """Makes a run that goes on from a checkpoint begin its schedule anew, over the steps that remain.

        The optimizer keeps its momentum where it fits.
        """
        self.schedule_start = checkpoint["global_step"]
        configured = self.configure_optimizers()
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        restart(checkpoint, optimizer, self.hparams["optimizer"])

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        steps = self.warmup_epochs * self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmth = min(1.0, (self.global_step + 1 - self.schedule_start) / steps) if steps else 1.0
        with scaled_rates(optimizer, warmth):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


def as_pair(batch: Any, model: object) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch.

    Raises:
        ValueError: If the batch has another structure.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    found = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
    raise ValueError(
        f"{type(model).__name__} takes batches (inputs, targets), and the data gives {found}: make each sample a pair; "
        "several inputs are a tuple or a dictionary, such as ((image, row), target)"
    )


def batch_size(targets: Any) -> int:
    """Return the number of samples of a batch, by the first tensor among its targets."""
    return next((len(leaf) for leaf in tree_leaves(targets) if isinstance(leaf, Tensor) and leaf.ndim), 1)
