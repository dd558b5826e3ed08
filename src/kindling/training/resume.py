"""Saves checkpoints from which a run resumes bit-identically, also after a signal."""

import logging
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.plugins.precision import DoublePrecision
from typing_extensions import override

from kindling.data.loaders import ResumableLoader
from kindling.models.schedules import has_schedule_changed, restart_schedule
from kindling.models.task import BaseTask
from kindling.runs.signatures import is_own_here, sign_checkpoint
from kindling.runs.untrusted_config import class_paths
from kindling.training.epoch_position import is_within_epoch, mark_within_epoch, restore_position, step_offset
from kindling.training.moved_checkpoints import keep_previous
from kindling.training.output_collector import TestOutputCollector
from kindling.training.received_signals import ReceivedSignals
from kindling.training.resume_state import adapt_callbacks, collect_state, restore_state
from kindling.training.training_plots import PlotTrainingHistory
from kindling.utils.plugins import sources
from kindling.utils.stop_signals import interruption

logger = logging.getLogger(__name__)

PLOTTERS = PlotTrainingHistory, TestOutputCollector  # callbacks that draw plots when training ends


class ExactResume(Callback):
    """Saves `last.ckpt` so that a killed, interrupted or finished run resumes as if it had never stopped.

    It is saved at the start of each epoch, at the end of training (after schedulers and early stopping; Lightning's
    ModelCheckpoint saves before ReduceLROnPlateau steps), and within an epoch between two optimizer steps. It contains
    the position in the epoch, counted in samples, and the random state and metrics of each process. The checkpoint
    before it is kept as `previous.ckpt`.

    Ctrl-C, SIGTERM or SIGUSR1 finishes the current optimizer step and saves a checkpoint, in all processes of a
    distributed run, whichever received the signal; a second one stops at once. A run that stops within an epoch
    (max_steps, max_time, `should_stop`) resumes there too, without the additional validation that Lightning runs before
    it stops.

    Args:
        run_folder: The run folder; checkpoints are saved in its `checkpoints/`.
        every_n_minutes: Minutes between checkpoints within an epoch. None is saved during validation.
        every_n_steps: Number of optimizer steps between additional checkpoints; null for none.
    """

    def __init__(self, run_folder: Path, every_n_minutes: float = 10, every_n_steps: int | None = None) -> None:
        self.run_folder = run_folder
        self.path = run_folder / "checkpoints" / "last.ckpt"
        self.every_n_minutes, self.every_n_steps = every_n_minutes, every_n_steps
        self._is_copy = not is_own_here(run_folder)  # before a new config.yaml is signed
        self.signal = 0  # that has stopped the training, once it has ended
        self.is_trained = False  # whether the run is complete and nothing is left to train
        self._signals = ReceivedSignals()
        self._loaded: dict[str, Any] | None = None
        self._validated: dict[str, Any] = {}
        self._saving = False  # whether this callback saves, and not a ModelCheckpoint
        self._saved_step, self._saved_at = 0, 0.0  # step and time (s) of the last checkpoint
        self._stops = self._is_saved = False  # whether training stops, and is saved, within an epoch
        self._max_steps = -1

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # After other callbacks, to save their state, even after the Trainer's Timer. But before plots are drawn at the
        # end of training, which takes time; and before averaged weights replace the raw ones in `on_fit_end`, where
        # this callback draws the plots that a killed run lacks.
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        kinds: tuple[type[Callback], ...] = (WeightAveraging, *PLOTTERS, Checkpoint)
        after = [callback for kind in kinds for callback in others if isinstance(callback, kind)]
        rest = [callback for callback in others if callback not in after]
        trainer.callbacks = [*rest, self, *after]  # type: ignore[attr-defined]
        if isinstance(trainer.precision_plugin, DoublePrecision):
            pl_module.double()  # Lightning does so after it has restored the weights, which rounds them to float32

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["callbacks"][self.state_key] = collect_state(trainer, pl_module)
        callbacks = map(type, trainer.callbacks)  # type: ignore[attr-defined]
        named = class_paths([checkpoint.get("hyper_parameters"), checkpoint.get("datamodule_hyper_parameters")])
        checkpoint["plugins"] = sources([*named, *(f"{kind.__module__}.{kind.__name__}" for kind in callbacks)])
        checkpoint.update(sign_checkpoint(checkpoint))
        if is_within_epoch(trainer):
            mark_within_epoch(checkpoint["loops"]["fit_loop"], batch_is_over=self._saving)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self._loaded = restore_position(trainer, checkpoint, checkpoint["callbacks"].get(self.state_key, {}))
        self._validated = deepcopy(checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"])
        if isinstance(pl_module, BaseTask):
            pl_module.step_offset = step_offset(trainer, checkpoint)
            if has_schedule_changed(pl_module, checkpoint):
                # Lightning would overwrite a typed learning rate, and restore a OneCycleLR with too few steps.
                restart_schedule(pl_module, checkpoint)
        continues = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() == self.path.resolve()
        adapt_callbacks(trainer, checkpoint["callbacks"], self.run_folder, continues, self._is_copy)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_trained:
            trainer.should_stop = True

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_trained:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, PLOTTERS):
                    callback.on_train_end(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch_loader(trainer)
        is_resumable = isinstance(trainer.train_dataloader, ResumableLoader)
        if getattr(trainer.train_dataloader, "persistent_workers", False) and not is_resumable:
            logger.warning(
                "this run will not resume exactly: checkpoints can't store the random state of persistent_workers"
            )
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._stops, self._is_saved, self._max_steps = False, False, trainer.max_steps
        if self._loaded:  # empty for a checkpoint of another Trainer
            # Just before the first batch: everything up to here may have drawn random numbers.
            restore_state(trainer, pl_module, self._loaded)
        self._signals.start()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch_loader(trainer)  # the loader may be new
        self._clear_restarting(trainer)  # before the counters of the epoch are reset
        self._save(trainer)
        if number := self._signals.received(trainer):
            raise interruption(number)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clear_restarting(trainer)
        if trainer.is_last_batch:
            return
        if not isinstance(trainer.train_dataloader, ResumableLoader) and (number := self._signals.received(trainer)):
            loader = type(trainer.train_dataloader).__name__
            logger.warning(f"epoch {trainer.current_epoch + 1} will start over: {loader} can't resume within an epoch")
            raise interruption(number)
        # Lightning would run a validation before it stops, which an uninterrupted run does not, and could stop within
        # an accumulated optimizer step.
        loop = trainer.fit_loop.epoch_loop
        if trainer.should_stop and loop.done:
            trainer.should_stop, self._stops = False, True
        if self._stops and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            loop.max_steps = trainer.global_step

    def _watch_loader(self, trainer: Trainer) -> None:
        if isinstance(trainer.train_dataloader, ResumableLoader):
            trainer.train_dataloader.before_batch = partial(self._before_batch, trainer)

    def _before_batch(self, trainer: Trainer) -> None:
        """Save between two batches if due, after validation, schedulers and loggers of the last batch."""
        self._clear_restarting(trainer)
        done = trainer.fit_loop.batch_idx + 1
        if not done or done % trainer.accumulate_grad_batches:  # already saved, or within an optimizer step
            return
        is_due = self._signals.number != 0 or self._is_due(trainer.global_step)
        if trainer.strategy.reduce_boolean_decision(is_due, all=False):
            self._save(trainer)
            if number := self._signals.received(trainer):
                raise interruption(number)

    def _is_due(self, step: int) -> bool:
        if step == self._saved_step:
            return False
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        return by_steps or time.monotonic() - self._saved_at >= 60 * self.every_n_minutes

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_within_epoch(trainer):  # training stops here, and the metrics are about to be reset
            self._save(trainer)
            self._is_saved = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_saved:
            self._save(trainer)
        if self._stops:
            trainer.should_stop, trainer.fit_loop.epoch_loop.max_steps = True, self._max_steps
        self.signal = self._signals.received(trainer)
        self._signals.stop()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.stop()

    def _clear_restarting(self, trainer: Trainer) -> None:
        # Lightning clears the flag after the epoch, and until then skips ReduceLROnPlateau to not step it twice.
        if self._loaded is not None:
            # Lightning has counted the validation after the last batch twice.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.load_state_dict(self._validated)
            epoch = trainer.fit_loop.epoch_progress.current
            epoch.ready = epoch.completed + 1  # Lightning omits this at the start of an epoch
            for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop):
                loop.on_iteration_done()
            self._loaded = None

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # so that a killed run has its metrics up to here
        if not trainer.global_step:  # nothing trained, nothing to resume
            return
        if trainer.is_global_zero and self.path.exists() and trainer.global_step != self._saved_step:
            keep_previous(self.path)
        self._saving = True
        trainer.save_checkpoint(self.path)
        self._saving = False
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
