"""The callback that fills all of TensorBoard's tabs except the curves."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.data.datasets import inputs_of
from kindling.evaluation.multilabel import MultiLabelPredictions
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.regression import RegressionPredictions, Target
from kindling.models.classification import ClassificationTask
from kindling.models.multilabel import MultiLabelTask
from kindling.runs.folders import is_in_run, run_folder_of
from kindling.tensorboard.hyperparameters import collect_hparams, write_final_metrics, write_hparams
from kindling.tensorboard.logger import SplitLogger
from kindling.tensorboard.multilabel import MultiLabelTabs
from kindling.tensorboard.network import write_histograms, write_network, write_texts
from kindling.tensorboard.predictions import ClassificationTabs, PredictionTabs, write_worst_predictions
from kindling.tensorboard.projector import HiddenFeatures, write_projector
from kindling.tensorboard.regression import RegressionTabs
from kindling.tensorboard.training_samples import write_training_samples
from kindling.training.output_collector import Outputs, TestOutputCollector, is_collected, outputs_and_targets
from kindling.utils.console import progress
from kindling.utils.errors import logging_errors

MAX_STORED_NUMBERS = 1_000_000  # 4 MB; larger predictions of the best epoch are not stored in checkpoints
HISTOGRAM_SHARE = 0.005  # maximum share of the training time spent on histograms


class Dashboard(TestOutputCollector):
    """Fills TensorBoard's tabs: images, graph, histograms, texts, PR curves, projector and HParams.

    While training, it writes texts and a sheet of augmented samples once, and histograms of weights and gradients
    after each epoch unless they have taken more than 0.5% of the time so far. The rest is written when training ends or
    is interrupted, and after a test.

    Args:
        logger: The logger; by default the `SplitLogger` of the Trainer.
        step: Optimizer steps of the model; by default those of the Trainer.
    """

    def __init__(self, logger: SplitLogger | None = None, step: int | None = None) -> None:
        super().__init__()
        self._logger, self._step = logger, step
        self._best: tuple[Outputs, Tensor] | None = None  # outputs and targets of the best epoch
        self._metrics: dict[str, float] = {}  # of the best epoch
        self._hidden: HiddenFeatures | None = None
        self._start = self._histogram_seconds = 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        outputs, targets = self._best or ((), ())
        best = [*(outputs if isinstance(outputs, tuple) else (outputs,)), targets] if self._best else []
        return {"metrics": self._metrics, "best": best if sum(map(torch.numel, best)) <= MAX_STORED_NUMBERS else []}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._metrics = state_dict.get("metrics", {})  # older checkpoints have none
        if best := state_dict.get("best"):
            self._best = outputs_and_targets(best)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, SplitLogger)]
        if self._logger is None and not loggers:
            raise ValueError('a Dashboard needs a Trainer(logger=SplitLogger(save_dir="runs", name="mine"))')
        self._logger = self._logger or loggers[0]

    def _writer(self, split: str) -> SummaryWriter:
        assert self._logger is not None
        return self._logger.writer(split)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._start or not trainer.is_global_zero:
            return
        self._start = time.perf_counter()
        write_texts(self._writer("train"), pl_module, trainer.global_step)
        if is_collected(trainer, pl_module):
            write_training_samples(self._writer("train"), trainer, pl_module, batch)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        start = time.perf_counter()
        has_time = self._histogram_seconds < HISTOGRAM_SHARE * (start - self._start)
        if trainer.is_last_batch and trainer.is_global_zero and has_time:
            write_histograms(self._writer("train"), pl_module, trainer.global_step)
            self._histogram_seconds += time.perf_counter() - start

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.buffer.add(trainer, pl_module, outputs, batch)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not is_best(trainer):
            self.buffer.clear()
            return
        self._best = self.buffer.gather(trainer, pl_module)
        self._metrics = metrics_of(trainer, "val")
        if trainer.state.fn == "validate":  # an ensemble, which is not trained
            self._write_best(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_best(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        is_set_up = self._logger is not None  # unless interrupted before
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and is_set_up:
            with logging_errors("writing the TensorBoard charts"):
                self._write_best(trainer, pl_module)

    @rank_zero_only
    @progress("writing the TensorBoard charts")
    def _write_best(self, trainer: Trainer, model: LightningModule) -> None:
        step = trainer.global_step  # TensorBoard drops this and later steps when the run resumes
        if trainer.state.fn != "fit":
            write_texts(self._writer("train"), model, step)
        write_network(self._writer("train"), model, step)
        if self._best:
            predictions, data = predictions_of(trainer, *self._best), trainer.datamodule  # type: ignore[attr-defined]
            predictions.write(self._writer("val"), step)
            write_worst_predictions(self._writer("val"), predictions, partial(inputs_of, data.val), step)
        write_hparams(self._writer("test"), collect_hparams(trainer, model), self._metrics, step)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_collected(trainer, pl_module):
            self._hidden = HiddenFeatures(pl_module)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        features = self._hidden.gather(trainer) if self._hidden else None
        self._hidden = None
        if not trainer.is_global_zero:
            return
        writer, step = self._writer("test"), trainer.global_step if self._step is None else self._step
        if self.outputs is not None and self.targets is not None:
            predictions = predictions_of(trainer, self.outputs, self.targets)
            predictions.write(writer, step)
            if features is not None and len(features) == len(self.targets):  # compiled layers call no hook
                inputs = partial(inputs_of, trainer.datamodule.test)  # type: ignore[attr-defined]
                write_projector(writer, features, predictions, inputs, step)
        write_final_metrics(writer, metrics_of(trainer, "test"), step)


def predictions_of(trainer: Trainer, outputs: Outputs, targets: Tensor) -> PredictionTabs:
    """Return the predictions for a split, given outputs and targets as in `TestOutputCollector`."""
    model, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(model, ClassificationTask):
        threshold = model.threshold
        if isinstance(outputs, Tensor) and not trainer.testing:
            # Training may have gone on after the best epoch, whose outputs these are.
            outputs = model.validation_choices.refit_temperature(outputs, targets)
            threshold = model.validation_choices.threshold_for(outputs, targets)
        return ClassificationTabs(Predictions.of(outputs, targets, model.num_classes, threshold), model.class_names)
    assert isinstance(outputs, Tensor)
    if isinstance(model, MultiLabelTask):
        return MultiLabelTabs(MultiLabelPredictions(model.to_prediction(outputs), targets), model.class_names)
    return RegressionTabs(RegressionPredictions(outputs, targets, Target.of(data.fitted)))


def is_best(trainer: Trainer) -> bool:
    """Return whether the last validation is the best so far by the metric that the best checkpoint monitors."""
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.best_model_score is None:
        return True
    score, best = trainer.callback_metrics.get(checkpoint.monitor or ""), checkpoint.best_model_score
    return score is not None and bool(score > best if checkpoint.mode == "max" else score < best)


def metrics_of(trainer: Trainer, split: str) -> dict[str, float]:
    """Return the metrics of a split by name."""
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(f"{split}/")}


def dashboard_of(checkpoint: Path, step: int) -> Dashboard | None:
    """Return a dashboard that adds test results to the run of a checkpoint after a step; None outside of a run."""
    run = run_folder_of(checkpoint)
    if not is_in_run(checkpoint) or not list(run.glob("train/events.out.tfevents.*")):
        return None  # outside of a run, or trained without TensorBoard
    return Dashboard(SplitLogger(save_dir=run.parent.parent, name=run.parent.name, version=run.name), step=step)
