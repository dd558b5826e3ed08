"""Combines callbacks that users add with `--trainer.callbacks` with those of Kindling."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    Checkpoint,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    ProgressBar,
    SpikeDetection,
    WeightAveraging,
)
from typing_extensions import override

from kindling.runs.metadata import FILE as RECORD
from kindling.training.averaging import defer_to_fit_end
from kindling.training.monitors import check_monitor
from kindling.utils.errors import logging_errors

logger = logging.getLogger(__name__)

# Unsupported callbacks, with the option to use instead.
REPLACEMENTS: dict[type[Callback], str] = {
    BackboneFinetuning: "--model TransferClassifier --model.unfreeze_epoch",
    BaseFinetuning: "a subclass of it, or --model TransferClassifier",
    LearningRateFinder: "fit --find_lr",
}
RESERVED_NAMES = ("best", "last", "previous")  # of checkpoints that Kindling writes


class SaveOnException(Checkpoint):
    """Wraps an OnExceptionCheckpoint, from whose file Lightning would otherwise start each new run."""

    def __init__(self, saver: OnExceptionCheckpoint) -> None:
        self.saver = saver

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with logging_errors(type(self.saver).__name__):
            self.saver.on_exception(trainer, pl_module, exception)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.saver.teardown(trainer, pl_module, stage)


def as_list(callbacks: list[Callback] | Callback | None) -> list[Callback]:
    """Return the value of `--trainer.callbacks` as a list."""
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def has_progress_bar(callbacks: list[Callback] | Callback | None) -> bool:
    """Return whether a user adds a progress bar; a Trainer accepts only one."""
    return any(isinstance(callback, ProgressBar) for callback in as_list(callbacks))


def combine(
    users: Sequence[Callback], ours: Sequence[Callback], run_folder: Path | None, saves: bool
) -> list[Callback]:
    """Combine the callbacks from `--trainer.callbacks` with those of Kindling; raise ValueError if they conflict.

    Kindling's come first, because the first of a kind becomes `trainer.checkpoint_callback` and
    `trainer.early_stopping_callback`.

    Args:
        users: Callbacks from `--trainer.callbacks`.
        ours: Callbacks configured by other options.
        run_folder: The run folder.
        saves: Whether checkpoints are saved.
    """
    for callback in users:
        name = type(callback).__name__
        if type(callback) in REPLACEMENTS:
            raise ValueError(f"{name} does not work with Kindling's models: use {REPLACEMENTS[type(callback)]}")
        if isinstance(callback, Checkpoint) and not saves:
            raise ValueError(f"{name} needs checkpoints: remove it, or remove --trainer.enable_checkpointing false")
        if isinstance(callback, ModelCheckpoint) and run_folder:
            _separate_files(callback, run_folder)
        if isinstance(callback, SpikeDetection):
            callback.running = callback.running_mean  # type: ignore[attr-defined]  # Lightning loads its state there
    users = [SaveOnException(each) if isinstance(each, OnExceptionCheckpoint) else each for each in users]
    together = [callback for callback in [*ours, *users] if saves or not isinstance(callback, Checkpoint)]
    averages = [callback for callback in together if isinstance(callback, WeightAveraging)]
    if len(averages) > 1:
        names = " and ".join(type(callback).__name__ for callback in averages)
        raise ValueError(f"{names} both average the weights: choose one")
    for callback in averages:
        defer_to_fit_end(callback)
    _check_keys(together)
    return together


def _separate_files(callback: ModelCheckpoint, run_folder: Path) -> None:
    """Prevent a user's ModelCheckpoint from replacing the checkpoints of Kindling or of other runs."""
    if callback.dirpath and "://" not in str(callback.dirpath):
        folder = Path(callback.dirpath).resolve()
        owner = next((path for path in (folder, *folder.parents) if (path / RECORD).exists()), run_folder.resolve())
        if owner != run_folder.resolve():  # this run is a copy, or was started from the config.yaml of the other
            callback.dirpath = str(run_folder.resolve() / folder.relative_to(owner))
            inside = run_folder / folder.relative_to(owner)
            logger.warning(f"ModelCheckpoint: {folder} is in another run; saving to {inside}")
    if callback.dirpath and Path(callback.dirpath).resolve() != (run_folder / "checkpoints").resolve():
        return
    callback.save_last = None  # Kindling saves last.ckpt, which resumes exactly
    if callback.filename in RESERVED_NAMES:
        raise ValueError(f"{callback.filename}.ckpt is reserved for Kindling: give ModelCheckpoint another filename")


@contextmanager
def naming_monitors(trainer: Trainer) -> Iterator[None]:
    """Name the option and the logged metrics in Lightning's error about a metric that a user's callback monitors."""
    try:
        yield
    except (MisconfigurationException, RuntimeError):
        callback = inspect.trace()[-1].frame.f_locals.get("self")  # in which the error was raised
        if isinstance(callback, EarlyStopping | ModelCheckpoint):
            check_monitor(f"--trainer.callbacks {type(callback).__name__}: monitor", callback.monitor, trainer)
        raise


def _check_keys(callbacks: Sequence[Callback]) -> None:
    """Raise ValueError if two callbacks would store their states under the same key."""
    stateful = [callback for callback in callbacks if type(callback).state_dict is not Callback.state_dict]
    keys = [callback.state_key for callback in stateful]
    for callback in stateful:
        if keys.count(callback.state_key) > 1:
            raise ValueError(f"two {type(callback).__name__} callbacks have the same settings: remove one")
