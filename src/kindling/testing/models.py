"""Checks that a model trains, resumes, loads and can be exported."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor
from typing_extensions import override

from kindling.models.task import BaseTask
from kindling.testing.checkpoints import check_exports, check_loaded
from kindling.testing.data import copy_data
from kindling.testing.isolation import isolated
from kindling.testing.trainer import small_trainer
from kindling.training import ExactResume
from kindling.tuning import overfit_batch
from kindling.utils.hyperparameters import is_plain


@isolated()
def check_model(
    model_class: type[LightningModule],
    data: LightningDataModule,
    *,
    overfits: bool = True,
    formats: Sequence[str] | None = None,
    **arguments: Any,
) -> None:
    """Check that a model trains, resumes and can be used elsewhere.

    Every trainable parameter gets a nonzero gradient; the model overfits one batch; a checkpoint loads without running
    code, and predicts as the trained model does; a killed run resumes to identical weights; and each export format
    agrees with the checkpoint. Exports are checked for Kindling's tasks, everything else for any LightningModule; one
    with manual optimization need not overfit a batch.

    Args:
        model_class: The class of the model.
        data: The data module to train it on; a few batches are read.
        overfits: Whether the model must overfit one batch; a linear model on noise cannot.
        formats: Export formats to check; by default all that suit the model and whose packages are installed.
        **arguments: Arguments of the model that the data module does not provide.

    Raises:
        AssertionError: If a check fails.
    """

    def create() -> LightningModule:
        seed_everything(0, verbose=False)
        return (
            model_class.for_data(data, **arguments) if issubclass(model_class, BaseTask) else model_class(**arguments)
        )

    with tempfile.TemporaryDirectory() as folder:
        _check_gradients(create(), data)
        if overfits:
            _check_overfits(create(), data)
        trained, checkpoint = _check_resumes(create, data, Path(folder))
        # A task stores all its arguments.
        loaded = model_class.load_from_checkpoint(
            checkpoint, weights_only=True, **({} if issubclass(model_class, BaseTask) else arguments)
        )
        check_loaded(trained, loaded.eval(), data)
        if isinstance(loaded, BaseTask) and loaded.has_example:
            check_exports(loaded, formats, Path(folder))


class _GradientRecorder(Callback):
    """Records which parameters get a gradient, and which of them one that is not finite."""

    def __init__(self) -> None:
        self.trainable: set[str] = set()
        self.reached: set[str] = set()
        self.infinite: set[str] = set()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # A hook sees each gradient, whoever calls backward() and before anything sets it to zero.
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad and name not in self.trainable:
                self.trainable.add(name)
                parameter.register_post_accumulate_grad_hook(partial(self._record, name))  # type: ignore[no-untyped-call]

    def _record(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        values = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        if values.any():  # NaN, too
            self.reached.add(name)
        if not values.isfinite().all():
            self.infinite.add(name)


def _check_gradients(model: LightningModule, data: LightningDataModule) -> None:
    recorder, name = _GradientRecorder(), type(model).__name__
    small_trainer(recorder, limit_val_batches=0).fit(model, data)
    assert recorder.trainable, f"{name} has no trainable parameter"
    missing = ", ".join(sorted(recorder.trainable - recorder.reached))
    assert not missing, f"{name}: no gradient reaches {missing}"
    infinite = ", ".join(sorted(recorder.infinite))
    assert not infinite, f"{name}: the gradient of {infinite} is NaN or infinite"


def _check_overfits(model: LightningModule, data: LightningDataModule) -> None:
    name = type(model).__name__
    if isinstance(model, BaseTask):
        result = overfit_batch(model, data, accelerator="cpu")
        assert result.succeeded, f"{name} cannot overfit one batch: {str(result).partition(': ')[2]}"
    elif model.automatic_optimization:
        losses: list[float] = []
        recorder = LambdaCallback(on_train_batch_end=lambda *hook: losses.append(float(hook[2]["loss"])))
        small_trainer(recorder, max_epochs=-1, max_steps=500, limit_val_batches=0, overfit_batches=1).fit(model, data)
        before, after = losses[0], min(losses[-20:])
        assert after < 0.5 * before, (
            f"{name} cannot overfit one batch: its loss went from {before:.3g} to {after:.3g} in "
            f"{len(losses)} steps; check the learning rate, and that all layers contribute to the loss"
        )


class _KilledError(Exception):
    """Ends training as a crash does."""


class _Killer(Callback):
    """Counts training batches, and ends training before one of them."""

    def __init__(self, batch: int | None = None) -> None:
        self.batch = batch
        self.batches = 0

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        if self.batches == self.batch:
            raise _KilledError


def _check_resumes(
    create: Callable[[], LightningModule], data: LightningDataModule, folder: Path
) -> tuple[LightningModule, Path]:
    """Check that a killed run resumes to identical weights; return a model that was not killed, and its checkpoint."""
    straight, killed, resumed = (
        ExactResume(folder / name, every_n_steps=1) for name in ("straight", "killed", "killed")
    )
    model, counter = create(), _Killer()
    name = type(model).__name__
    unplain = ", ".join(key for key, value in model.hparams.items() if not is_plain(value))
    assert not unplain, f"{name} stores {unplain} as hyperparameters: a checkpoint can only hold plain values"
    small_trainer(straight, counter).fit(model, copy_data(data))
    batch = counter.batches * 3 // 4 + 1  # of 8: within the second epoch; of 2: the second
    where = f"before training batch {batch} of {counter.batches}"
    try:
        small_trainer(killed, _Killer(batch)).fit(create(), copy_data(data))
    except _KilledError:
        pass
    else:
        raise AssertionError(f"{name}: a second training with the same seed ended {where}, where it was to be killed")
    small_trainer(resumed).fit(create(), copy_data(data), ckpt_path=killed.path, weights_only=True)
    expected, found = (torch.load(one.path, weights_only=True)["state_dict"] for one in (straight, resumed))
    different = ", ".join(key for key in expected if not torch.equal(expected[key], found[key]))
    assert not different, (
        f"{name}: a run that was killed {where} resumes to other weights in {different}; something it depends on is "
        "not in the checkpoint, such as its own random generator or a counter"
    )
    return model, Path(straight.path)
