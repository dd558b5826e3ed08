"""The base class of all tasks: training step, loss, optimizer and schedule."""

from functools import partial
from typing import Any, ClassVar, Self

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, instantiate_class
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from kindling.models.batches import as_pair, check_batches
from kindling.models.data_arguments import Task, check_task
from kindling.models.infer import create_with_inferred_shape, infer_arguments
from kindling.models.metrics_module import MetricsModule, Stage
from kindling.models.network_module import NetworkModule
from kindling.models.schedules import scaled_learning_rates, scheduler_config
from kindling.runs.signatures import sign_checkpoint
from kindling.utils.hyperparameters import make_hparams_plain, to_class_path
from kindling.utils.shared_batches import has_samples

# A plain dict: checkpoints can store it, and `--model.optimizer.lr 0.01` works without naming the class.
ADAM: Any = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}


class BaseTask(NetworkModule, MetricsModule):
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
    num_outputs: int  # outputs of the network per sample, set by the base class of each task

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
        super().__init__(input_shape, mean, std)
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative, got {warmup_epochs}")
        self.save_hyperparameters()
        make_hparams_plain(self)
        # Hyperparameters unless a subclass without **kwargs sets them: its own arguments alone are saved.
        self.training_options = {
            name: self.hparams.get(name, to_class_path(value) if callable(value) else value)
            for name, value in {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "compile": compile}.items()
        }
        self.warmup_epochs = warmup_epochs
        self.schedule_start = 0  # optimizer step at which the current schedule started
        # Steps that the completed epochs would have taken with the current batches, minus the steps taken: not 0
        # after resuming with another batch size, for example.
        self.step_offset = 0

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
        return create_with_inferred_shape(partial(cls, **known), data)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch, given the outputs of `forward` and the second item of the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: define `def loss(self, outputs, targets)`")

    def loss_of_test_outputs(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch, given what `test_step` returns; see `loss`."""
        return self.loss(outputs, targets)

    def check_targets(self, outputs: Any, targets: Any) -> None:
        """Raise ValueError if the targets of a batch are of the wrong kind for the outputs; by default never."""

    def calibrate(self, outputs: Any) -> Any:
        """Return the outputs of a batch as metrics and predictions use them; by default unchanged."""
        return outputs

    def to_prediction(self, outputs: Any) -> Any:
        """Return the predictions that `kindling predict` writes for the outputs of a batch; by default the outputs."""
        return outputs

    @override
    def setup(self, stage: str) -> None:
        self.init_lazy_layers()
        super().setup(stage)
        if stage == "fit":
            self.schedule_start = self.step_offset = 0
            if self.training_options["compile"]:
                self.core.compile()

    @override
    def on_fit_start(self) -> None:
        if self.trainer.precision == "16-true" and self.trainer.strategy.root_device.type == "cpu":
            raise ValueError("--trainer.precision 16-true can't train on a CPU: use bf16-true or bf16-mixed")
        check_batches(self, self.trainer)

    def shared_step(self, batch: Any, stage: Stage) -> tuple[Tensor, Any]:
        """Update the metrics of a stage with a batch, and return its mean loss and outputs."""
        inputs, targets = as_pair(batch, self)
        loss, outputs = self.loss_and_outputs(inputs, targets)
        if stage == "train":
            self.note_shape(inputs)
        if stage != "train" or has_samples(self._trainer):
            self.update_metrics(stage, loss, self.calibrate(outputs), targets)
        return loss, outputs

    def loss_and_outputs(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        """Return the mean loss of a batch, and the outputs for the metrics."""
        outputs = self.outputs_for(inputs)
        self.check_targets(outputs, targets)
        return self.loss(outputs, targets), outputs

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
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        steps = self.warmup_epochs * self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup_factor = min(1.0, (self.global_step + 1 - self.schedule_start) / steps) if steps else 1.0
        with scaled_learning_rates(optimizer, warmup_factor):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["schedule_start"] = self.schedule_start
        checkpoint.update(sign_checkpoint(checkpoint))

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.schedule_start = checkpoint.get("schedule_start", 0)  # not in checkpoints of other Trainers
        self.restore_learned(checkpoint)
