"""Checks that a checkpoint, and files exported from it, compute what the trained model does."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from kindling.cli.stage_support import has_stage
from kindling.data.checks.samples import summarize
from kindling.deploy.export import some_inputs
from kindling.deploy.export_wrapper import ExportWrapper
from kindling.deploy.formats import FORMATS
from kindling.deploy.model_card import ModelCard
from kindling.deploy.verify import compare_outputs, first
from kindling.models.task import BaseTask
from kindling.testing.trainer import small_trainer
from kindling.utils.text import join_names
from kindling.utils.trees import tree_leaves


class _PredictionRecorder(Callback):
    """Records predictions, and those expected of Kindling's tasks: `to_prediction` of the outputs of `forward`."""

    def __init__(self) -> None:
        self.predictions: list[Any] = []
        self.expected: list[Any] = []

    @override
    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.predictions.append(outputs)
        if isinstance(pl_module, BaseTask):
            self.expected.append(pl_module.to_prediction(pl_module.outputs_for(batch[0])))


def check_loaded(trained: LightningModule, loaded: LightningModule, data: LightningDataModule) -> None:
    """Check that a model loaded from a checkpoint has the weights, and predictions or metrics, of the trained model."""
    name, weights, restored = type(trained).__name__, trained.state_dict(), loaded.state_dict()
    differing = join_names(sorted(weights.keys() ^ restored.keys()))
    assert not differing, f"{name}: {differing}: not in both the trained and the loaded model"
    for key, value in restored.items():
        assert torch.equal(value, weights[key]), f"{name}: {key} changes when a checkpoint is loaded"
    if is_overridden("predict_step", loaded) and has_stage(loaded, data, "predict"):
        before, after, again = (_PredictionRecorder() for _ in range(3))
        for model, recorder in ((trained, before), (loaded, after), (loaded, again)):
            small_trainer(recorder).predict(model, data, return_predictions=False)
        assert summarize(after.predictions) == summarize(again.predictions), (
            f"{name}: predictions differ from call to call: is something random in evaluation mode?"
        )
        assert _are_close(before.predictions, after.predictions), (
            f"{name}: a loaded checkpoint predicts something else than the model from which it was saved; something "
            "predictions depend on is not in the checkpoint"
        )
        assert not after.expected or _are_close(after.predictions, after.expected), (
            f"{name}: predict_step does not return to_prediction(self.outputs_for(inputs)), as exports do"
        )
    elif has_stage(loaded, data, "val"):
        metrics = []
        for model in (trained, loaded):
            seed_everything(0, verbose=False)  # the loss may depend on random samples
            metrics.append(dict(small_trainer().validate(model, data, verbose=False)[0]))
        assert _are_close(*metrics), (
            f"{name}: a loaded checkpoint has validation metrics {metrics[1]}, the model from which it was saved "
            f"{metrics[0]}"
        )


def _are_close(expected: Any, found: Any) -> bool:
    """Return whether two structures hold the same values, apart from rounding."""
    for one, other in zip_longest(tree_leaves(expected), tree_leaves(found)):
        try:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
        except AssertionError:
            return False
        except TypeError:  # neither tensors nor numbers
            if one != other:
                return False
    return True


@torch.inference_mode()
def check_exports(model: BaseTask, formats: Sequence[str] | None, folder: Path) -> None:
    """Check that exported files compute what the model does; by default in all formats that are possible."""
    wrapper, name = ExportWrapper(model).eval(), type(model).__name__
    samples = some_inputs(model, 7)
    card = ModelCard(name, tuple(getattr(model, "class_names", ())), model.sample_shape, task=wrapper.task)
    for format in FORMATS if formats is None else formats:
        file = folder / f"model{FORMATS[format].suffix}"
        try:
            FORMATS[format].check(wrapper)
        except (ImportError, ValueError):
            if formats is None:
                continue
            raise
        try:
            with torch.inference_mode(False):
                FORMATS[format].write(wrapper, first(samples, 2), card, file)
        except Exception as error:  # tracing `forward` may fail in any way
            reason = (str(error).splitlines() or [""])[0]
            raise AssertionError(f"{name} can't be exported to {format}: {reason}") from error
        try:
            compare_outputs(wrapper, FORMATS[format].read(file), samples, (1, 2, 7))
        except ValueError as error:
            raise AssertionError(f"{name} exported to {format}: {error}") from error
