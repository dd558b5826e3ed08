"""Callbacks that users add by `--trainer.callbacks`, beside those of Kindling."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    Checkpoint,
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

logger = logging.getLogger(__name__)


# Callbacks whose work Kindling does in another way, with the option to use.
REPLACED: dict[type[Callback], str] = {
    BackboneFinetuning: "--model TransferClassifier --model.unfreeze_epoch",
    BaseFinetuning: "a subclass of it, or --model TransferClassifier",
    LearningRateFinder: "fit --find_lr",
}
OURS = ("best", "last", "previous")  # checkpoints that Kindling writes itself


class SaveOnException(Checkpoint):
    """An OnExceptionCheckpoint that saves alone: Lightning would start each new run from what it saved before."""

    def __init__(self, saver: OnExceptionCheckpoint) -> None:
        self.saver = saver

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.saver.on_exception(trainer, pl_module, exception)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.saver.teardown(trainer, pl_module, stage)


def as_list(callbacks: list[Callback] | Callback | None) -> list[Callback]:
    """Return the value of `--trainer.callbacks` as a list."""
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def has_progress_bar(callbacks: list[Callback] | Callback | None) -> bool:
    """Whether a user brings a progress bar, of which a Trainer takes but one."""
    return any(isinstance(callback, ProgressBar) for callback in as_list(callbacks))


def combine(users: Sequence[Callback], ours: Sequence[Callback], run: Path | None, saves: bool) -> list[Callback]:
    """Put the callbacks of a user and those of Kindling together.

    Ours come first, since `trainer.checkpoint_callback` and `trainer.early_stopping_callback` are the first ones.

    Args:
        users: Callbacks from `--trainer.callbacks`.
        ours: Callbacks that the options of `fit` configure.
        run: The run folder.
        saves: Whether checkpoints are saved.

    Raises:
        ValueError: If a callback cannot work here.
    """
    for callback in users:
        name = type(callback).__name__
        if type(callback) in REPLACED:
            raise ValueError(f"{name} does not work with Kindling's models: use {REPLACED[type(callback)]}")
        if isinstance(callback, Checkpoint) and not saves:
            raise ValueError(f"{name} saves checkpoints, which --trainer.enable_checkpointing false forbids: drop one")
        if isinstance(callback, ModelCheckpoint) and run:
            _keep_apart(callback, run)
        if isinstance(callback, SpikeDetection):
            callback.running = callback.running_mean  # type: ignore[attr-defined]  # Lightning loads its state there
    users = [SaveOnException(each) if isinstance(each, OnExceptionCheckpoint) else each for each in users]
    together = [callback for callback in [*ours, *users] if saves or not isinstance(callback, Checkpoint)]
    averages = [callback for callback in together if isinstance(callback, WeightAveraging)]
    if len(averages) > 1:
        names = " and ".join(type(callback).__name__ for callback in averages)
        raise ValueError(f"{names} would both average the weights: choose one")
    for callback in averages:
        defer_to_fit_end(callback)
    _check_keys(together)
    return together


def _keep_apart(callback: ModelCheckpoint, run: Path) -> None:
    """Keep a user's checkpoints from replacing those of Kindling in the same folder, and those of other runs."""
    if callback.dirpath and "://" not in str(callback.dirpath):
        folder = Path(callback.dirpath).resolve()
        owner = next((path for path in (folder, *folder.parents) if (path / RECORD).exists()), run.resolve())
        if owner != run.resolve():  # this run is a copy, or repeats the other one with its config.yaml
            callback.dirpath = str(run.resolve() / folder.relative_to(owner))
            logger.warning(f"ModelCheckpoint: {folder} is in another run; saving in {run / folder.relative_to(owner)}")
    if callback.dirpath and Path(callback.dirpath).resolve() != (run / "checkpoints").resolve():
        return
    callback.save_last = None  # last.ckpt is kept in any case, and resumes exactly
    if callback.filename in OURS:
        raise ValueError(f"{callback.filename}.ckpt is Kindling's own: give the ModelCheckpoint another filename")


def leave_to_original(callback: ModelCheckpoint, stored: str, run: Path, is_copy: bool) -> None:
    """Keep a user's checkpoints in a copy of a run: those in a folder outside of it are the original's.

    Args:
        callback: A ModelCheckpoint of the run that is resumed; its `dirpath` is changed in place.
        stored: Its `dirpath` in the checkpoint from which the run resumes.
        run: The run folder.
        is_copy: Whether the folder is not the one in which the run was last trained.
    """
    folder, ours = Path(callback.dirpath or run), run.resolve()
    if "://" in str(callback.dirpath) or ours in (resolved := folder.resolve(), *resolved.parents):
        return
    inside = ours / "user" / folder.name
    was_inside = Path(stored).parts[-2:] == inside.parts[-2:]
    if was_inside or (is_copy and stored == str(folder)):
        callback.dirpath = str(inside)
        logger.warning(
            f"ModelCheckpoint: {folder} belongs to the original of this run; saving in {run / 'user' / folder.name}"
        )


def _check_keys(callbacks: Sequence[Callback]) -> None:
    """Raise ValueError where two callbacks would store their states under the same name."""
    stateful = [callback for callback in callbacks if type(callback).state_dict is not Callback.state_dict]
    keys = [callback.state_key for callback in stateful]
    if twice := next((callback for callback in stateful if keys.count(callback.state_key) > 1), None):
        raise ValueError(f"two {type(twice).__name__} callbacks with the same settings: drop one of them")
