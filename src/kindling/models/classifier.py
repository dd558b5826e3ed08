"""The recipe that all classifiers share: input normalisation, loss, metrics, optimizer and schedule."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, instantiate_class
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MetricCollection
from typing_extensions import override

from kindling.hyperparameters import keep_plain
from kindling.models.batches import check_batches
from kindling.models.metrics import MeanLoss, classification_metrics
from kindling.trust import sign_checkpoint

Batch = tuple[Tensor, Tensor]  # inputs (N, C, H, W) or (N, F), labels (N,)
Stage = Literal["train", "val", "test"]

# A plain dict: a checkpoint stores it as it is, and `--model.optimizer.lr 0.01` works without naming the class.
ADAM: Any = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}


# What a model needs to know of its data: every `ClassificationDataModule` has these as attributes.
DATA_ARGUMENTS = ("num_classes", "input_shape", "mean", "std", "class_names")


class Classifier(LightningModule):
    """Base of all models: a subclass passes `**recipe` up and sets `self.network`.

    It may override `loss` and `metrics`. With `classifies = False` it predicts numbers: `forward` gives them, shape
    (N,), and there is no report.

    Takes raw inputs and normalises them itself, so training, export and serving can't drift apart: images as floats
    in [0, 1], shape (N, C, H, W), or features as floats, shape (N, F). Gives logits, shape (N, num_classes).

    The arguments that describe the data come from the data module: `kindling fit` links them, `for_data` passes them.

    Args:
        num_classes: Number of classes.
        input_shape: Shape of one sample: (C, H, W) or (F,).
        mean: Mean of the inputs by channel or feature; a single value serves all.
        std: Standard deviation of the inputs by channel or feature.
        class_names: Names of the classes in the order of their labels; the labels themselves by default.
        label_smoothing: Share of the target spread over all classes in the loss, in [0, 1). In validation too: a
            network trained with it is less sure of itself, and by the plain loss would seem to get worse.
        weighted_loss: Whether rare classes count for more in the loss, in inverse proportion to their training samples.
        optimizer: Any torch optimizer.
        lr_scheduler: Any torch scheduler, stepped after each epoch. `ReduceLROnPlateau` watches `val/loss`;
            `OneCycleLR` is stepped after each batch and told the number of steps.
        warmup_epochs: Epochs (a fraction will do) in which the learning rate rises linearly, batch by batch, to what
            the scheduler says.
        compile: Whether to compile the network with `torch.compile`; worth its half minute in long runs.

    Raises:
        ValueError: If an argument is out of its range.
    """

    classifies = True
    network: nn.Module
    mean: Tensor
    std: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: tuple[int, ...],
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        class_names: tuple[str, ...] = (),
        label_smoothing: float = 0.0,
        weighted_loss: bool = False,
        optimizer: OptimizerCallable = ADAM,
        lr_scheduler: LRSchedulerCallable | None = None,
        warmup_epochs: float = 0.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative: {warmup_epochs}")
        self.save_hyperparameters()
        keep_plain(self)
        self.num_classes = num_classes
        self.input_shape = tuple(input_shape)
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(num_classes))
        self.label_smoothing = label_smoothing
        self.warmup_epochs = warmup_epochs
        self.schedule_start = 0  # optimizer steps before the schedule: not 0 where a new one begins on the way
        # How many more steps the epochs so far would have had with batches as they are now: not 0 where a run has
        # resumed with another batch size, for example.
        self.step_offset = 0
        per_channel = (-1,) + (1,) * (len(self.input_shape) - 1)
        self.register_buffer("mean", torch.tensor(mean).view(per_channel))
        self.register_buffer("std", torch.tensor(std).view(per_channel))
        # Where the loss is weighted, `setup` asks the data module for the weights.
        self.register_buffer("class_weights", torch.ones(num_classes) if weighted_loss else None)
        metrics = self.metrics()
        for stage in ("train", "val", "test"):
            self.add_module(f"{stage}_metrics", metrics.clone(f"{stage}/"))
            self.add_module(f"{stage}_loss", MeanLoss())

    @classmethod
    def for_data(cls, data: LightningDataModule, **arguments: Any) -> Self:
        """The model for `data`: shape, classes and normalisation come from it, the other arguments from the caller."""
        return cls(**{name: getattr(data, name) for name in DATA_ARGUMENTS}, **arguments)

    def materialize(self) -> None:
        """Gives lazy layers, where there are any, the shapes that a sample brings."""
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in self.parameters()):
            with torch.no_grad():
                self.eval()(torch.zeros(1, *self.input_shape))
            self.train()

    @override
    def setup(self, stage: str) -> None:
        self.materialize()
        if stage == "fit":
            self.schedule_start = self.step_offset = 0
        if stage == "fit" and self.hparams["compile"]:
            self.network.compile()
        if stage == "fit" and self.class_weights is not None:
            counts = torch.tensor(self.trainer.datamodule.class_counts)  # type: ignore[attr-defined]
            self.class_weights.copy_(counts.sum() / (len(counts) * counts.clamp(min=1)))  # 1 in the mean

    @override
    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "train") and hasattr(data, "batch_size"):
            check_batches(self, data.batch_size, len(data.train), self.trainer.world_size)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network((inputs - self.mean) / self.std)  # (N, num_classes)
        return logits.float()

    def metrics(self) -> MetricCollection:
        """The metrics of a stage, each fed with logits (N, num_classes) and labels (N,)."""
        return classification_metrics(self.num_classes)

    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "sum") -> Tensor:
        """The losses of logits (N, num_classes) and labels (N,): their sum, or with the reduction `none` each, (N,).

        For the report the logits are logarithms of probabilities.
        """
        smoothing = self.label_smoothing
        return F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing, reduction=reduction)

    def _step(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        logits = self(inputs)
        # Over the number of samples, not the sum of their weights: so the mean of batches is the mean of all.
        loss = self.loss(logits, labels) / len(labels)
        # Counted here and logged once an epoch: `self.log` in each step would cost 0.4 ms, a third of a small step.
        mean_loss, metrics = self._meters(stage)
        mean_loss.update(loss.detach(), len(labels))
        metrics.update(logits, labels)
        return loss, logits

    def _answers(self, outputs: Tensor) -> Tensor:
        """For reports and pictures: the logarithms of probabilities (N, num_classes), or numbers (N,)."""
        return outputs.log_softmax(dim=1) if self.classifies else outputs

    def _meters(self, stage: Stage) -> tuple[MeanLoss, MetricCollection]:
        return getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_metrics")

    def _log_epoch(self, stage: Stage) -> None:
        loss, metrics = self._meters(stage)
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
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")[0]

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._answers(self._step(batch, "val")[1])

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._answers(self._step(batch, "test")[1])

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs = self.forward(batch[0])
        return outputs.softmax(dim=1) if self.classifies else outputs  # probabilities (N, num_classes), or numbers (N,)

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
        config = self.hparams["lr_scheduler"]
        if config is None:
            return optimizer
        name = config["class_path"].rpartition(".")[2]
        init_args = dict(config["init_args"])
        if name == "OneCycleLR" and init_args.get("total_steps") is None:
            init_args["total_steps"] = self.schedule_steps(self.schedule_start + self.step_offset)
        scheduler = instantiate_class(optimizer, {**config, "init_args": init_args})
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": "step" if name == "OneCycleLR" else "epoch",
                # ReduceLROnPlateau steps where there is a validation, and waits where there is none.
                "monitor": "val/loss",
                "frequency": (self.trainer.check_val_every_n_epoch or 1) if name == "ReduceLROnPlateau" else 1,
                "strict": False,
            },
        }

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

    def begin_schedule(self, checkpoint: dict[str, Any]) -> None:
        """Makes a run that goes on from a checkpoint begin its schedule anew, over the steps that remain.

        The optimizer keeps its momentum where it fits.
        """
        stored, wanted = checkpoint["hyper_parameters"], self.hparams
        self.schedule_start = checkpoint["global_step"]
        configured = self.configure_optimizers()
        optimizer = (configured["optimizer"] if isinstance(configured, dict) else configured).state_dict()
        if stored["optimizer"]["class_path"] == wanted["optimizer"]["class_path"]:
            optimizer["state"] = checkpoint["optimizer_states"][0]["state"]
        checkpoint["optimizer_states"] = [optimizer]
        checkpoint["lr_schedulers"] = []

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        # Warm-up and `lr_scale` change what the scheduler says for this one step, so they go with any scheduler.
        rates = [group["lr"] for group in optimizer.param_groups]
        steps = self.warmup_epochs * self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmth = min(1.0, (self.global_step + 1 - self.schedule_start) / steps) if steps else 1.0
        for group in optimizer.param_groups:
            group["lr"] *= warmth * group.get("lr_scale", 1.0)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
