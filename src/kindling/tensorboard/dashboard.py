"""What TensorBoard shows of a run beside its curves."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.data.loading import inputs_of, targets_of
from kindling.evaluation.predictions import Predictions
from kindling.models.classification import ClassificationTask
from kindling.models.task import as_pair
from kindling.runs.folders import is_in_run, run_folder_of
from kindling.tensorboard.hyperparameters import collect_hparams, write_final_metrics, write_hparams
from kindling.tensorboard.images import add_picture, image_grid
from kindling.tensorboard.logger import SplitLogger
from kindling.tensorboard.network import write_histograms, write_network, write_texts
from kindling.tensorboard.results import write_embeddings, write_predictions, write_top_losses
from kindling.training.test_outputs import TestOutputCollector, gather_samples, is_collected
from kindling.utils.pictures import are_images

SAMPLES = 30  # training images on the sheet
STORED = 1_000_000  # numbers of the best validation that a checkpoint stores, 4 MB
SHARE = 0.005  # of the training time that histograms may take


class Dashboard(TestOutputCollector):
    """Fills TensorBoard's tabs: images, graph, histograms, texts, PR curves, projector and HParams.

    While training, it writes texts and a sheet of augmented samples once, and histograms of weights and gradients
    after each epoch unless they have taken more than 0.5% of the time so far. The rest is written when training ends or
    is interrupted, and after a test.

    Args:
        logger: Where to write; by default the Trainer's own `SplitLogger`.
        step: Optimizer steps that the model has had; by default those of the Trainer.
    """

    def __init__(self, logger: SplitLogger | None = None, step: int | None = None) -> None:
        super().__init__()
        self._logger, self._step = logger, step
        self._best: tuple[Tensor, Tensor] | None = None  # predictions and labels of the best epoch, if known
        self._figures: dict[str, float] = {}  # of the best epoch
        self._layer: nn.Linear | None = None  # the last one, while a test runs
        self._hidden: list[Tensor] = []  # what it is given, (n, features) each
        self._hook: Any = None
        self._since = self._spent = 0.0  # when training began, and seconds that histograms have taken

    @override
    def state_dict(self) -> dict[str, Any]:
        best = [tensor.cpu() for tensor in self._best or ()]
        return {"figures": self._figures, "best": best if sum(map(torch.numel, best)) <= STORED else []}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._figures = state_dict["figures"]
        if best := state_dict.get("best"):  # checkpoints of older versions have none
            predictions, labels = best
            self._best = predictions, labels

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        own = [logger for logger in trainer.loggers if isinstance(logger, SplitLogger)]
        if self._logger is None and not own:
            raise ValueError('a Dashboard needs a Trainer(logger=SplitLogger(save_dir="runs", name="mine"))')
        self._logger = self._logger or own[0]

    def _writer(self, stage: str) -> SummaryWriter:
        assert self._logger is not None
        return self._logger.writer(stage)

    def _steps(self, trainer: Trainer) -> int:
        return trainer.global_step if self._step is None else self._step

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._since or not trainer.is_global_zero:
            return
        self._since = time.perf_counter()
        write_texts(self._writer("train"), pl_module, trainer.global_step)
        if not (isinstance(pl_module, ClassificationTask) and is_collected(trainer, pl_module)):
            return
        inputs, labels = first_samples(trainer, batch)
        if are_images(inputs) and labels.ndim == 1:
            names = [[pl_module.class_names[label]] for label in labels.tolist()]
            page = image_grid(inputs, names)
            add_picture(self._writer("train"), "pictures/samples as trained on", page, trainer.global_step)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        began = time.perf_counter()
        if trainer.is_last_batch and trainer.is_global_zero and self._spent < SHARE * (began - self._since):
            write_histograms(self._writer("train"), pl_module, trainer.global_step)
            self._spent += time.perf_counter() - began

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self._buffer.add(trainer, pl_module, outputs, batch)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not is_best(trainer):
            self._buffer.clear()
            return
        self._best = self._buffer.gather(trainer, pl_module)
        self._figures = figures_of(trainer, "val")
        if trainer.state.fn == "validate":  # of an ensemble, which is not trained
            self._end(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            self._end(trainer, pl_module)

    @rank_zero_only
    def _end(self, trainer: Trainer, model: LightningModule) -> None:
        step = trainer.global_step  # TensorBoard drops this and later steps where the run resumes
        if trainer.state.fn != "fit":
            write_texts(self._writer("train"), model, step)
        write_network(self._writer("train"), model, step)
        if self._best and isinstance(model, ClassificationTask):
            answers = to_predictions(*self._best)
            write_predictions(self._writer("val"), answers, model.class_names, step)
            val = trainer.datamodule.val  # type: ignore[attr-defined]
            write_top_losses(self._writer("val"), answers, partial(inputs_of, val), model.class_names, step)
        write_hparams(self._writer("test"), collect_hparams(trainer, model), self._figures, step)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        linear = [module for module in pl_module.modules() if isinstance(module, nn.Linear)]
        # An ensemble has many last layers, and nothing that is trained.
        self._layer = linear[-1] if linear and linear[-1].weight.requires_grad else None
        if self._layer:
            self._hook = self._layer.register_forward_pre_hook(self._keep_hidden)

    def _keep_hidden(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0].ndim == 2:  # (n, features), and not some layer within
            self._hidden.append(inputs[0].float().cpu())

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        answers, hidden = None, None
        if isinstance(pl_module, ClassificationTask) and self.outputs is not None and self.targets is not None:
            answers = to_predictions(self.outputs, self.targets)
        if self._layer:
            self._hook.remove()
            if answers:
                hidden = gather_samples(torch.cat([torch.empty(0, self._layer.in_features), *self._hidden]), trainer)
            self._hidden.clear()
        if not trainer.is_global_zero:
            return
        step, writer = self._steps(trainer), self._writer("test")
        if answers and isinstance(pl_module, ClassificationTask):
            names = pl_module.class_names
            write_predictions(writer, answers, names, step)
            if hidden is not None and len(hidden) == len(answers.labels):  # compiled layers call no hook
                test = trainer.datamodule.test  # type: ignore[attr-defined]
                write_embeddings(writer, hidden, answers, partial(inputs_of, test), names, step)
        write_final_metrics(writer, figures_of(trainer, "test"), step)
        writer.flush()


def first_samples(trainer: Trainer, batch: Any) -> tuple[Any, Tensor]:
    """Some of the first batch as the network gets them; where it gets features of images, of the images."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    inputs, labels = as_pair(batch, trainer.lightning_module)
    labels = labels.cpu()
    if isinstance(inputs, Tensor) and inputs.ndim == 2 and len(getattr(data, "input_shape", ())) == 3:
        first = torch.arange(min(SAMPLES, len(data.train)))
        targets = targets_of(data.train)
        return inputs_of(data.train, first), labels if targets is None else targets[first]
    return (inputs[:SAMPLES].cpu() if are_images(inputs) else inputs), labels[:SAMPLES]


def is_best(trainer: Trainer) -> bool:
    """Whether the validation just over is the best so far, as the checkpoint of the best epoch goes by it."""
    keeper = trainer.checkpoint_callback
    if not isinstance(keeper, ModelCheckpoint) or keeper.best_model_score is None:
        return True
    score, best = trainer.callback_metrics.get(keeper.monitor or ""), keeper.best_model_score
    return score is not None and bool(score > best if keeper.mode == "max" else score < best)


def to_predictions(logs: Tensor, labels: Tensor) -> Predictions:
    """Answers of logarithms of probabilities (N, classes) and labels (N,)."""
    return Predictions(logs.exp(), labels, F.nll_loss(logs, labels, reduction="none"))


def figures_of(trainer: Trainer, stage: str) -> dict[str, float]:
    """What has been measured in a stage, by name."""
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(f"{stage}/")}


def dashboard_of(checkpoint: Path, step: int) -> Dashboard | None:
    """Return a dashboard that adds what a test finds to the run of a checkpoint; None outside of a run.

    Args:
        checkpoint: The checkpoint.
        step: Optimizer steps that it was trained for.
    """
    run = run_folder_of(checkpoint)
    if not is_in_run(checkpoint) or not list(run.glob("train/events.out.tfevents.*")):
        return None  # outside of a run, or of one that was trained without loggers
    logger = SplitLogger(save_dir=run.parent.parent, name=run.parent.name, version=run.name)
    return Dashboard(logger, step=step)
