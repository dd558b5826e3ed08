"""A last checkpoint from which a run goes on to the very same weights."""

import os
import random
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loops.loop import _Loop
from typing_extensions import override

from kindling.callbacks.collect import CollectTest
from kindling.callbacks.history import TrainingHistory
from kindling.data.datamodule import ResumableLoader
from kindling.hyperparameters import same_factory
from kindling.models.classifier import Classifier


class ExactResume(Callback):
    """Keeps `last.ckpt` so that a killed, interrupted or finished run goes on as if it had never stopped.

    Written before each epoch and at the end of training, when schedulers and early stopping have had their say
    (Lightning's own ModelCheckpoint writes before ReduceLROnPlateau steps). Ctrl-C and SIGTERM are obeyed after the
    optimizer step in hand, with everything saved; a second one stops at once. The order of the samples is the data
    module's part: it follows from seed and epoch.

    Args:
        run: The run folder; `last.ckpt` is kept in `checkpoints/` there.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.path = run / "checkpoints" / "last.ckpt"
        self.interrupted = False
        self.is_trained = False  # whether no training is left to do: then none is begun
        self.is_drawn = False  # whether the plots of that training are there
        self._batches_done = 0  # of the present epoch, while it is saved in its middle
        self._handlers: dict[int, Any] = {}
        self._loaded: dict[str, Any] | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        kind, keys, *position = np.random.get_state()  # noqa: NPY002  (the global generator is the one to keep)
        return {
            "batches_done": self._batches_done,
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *position],
            "python": random.getstate(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, Classifier)
        self._prefer_typed_settings(pl_module, checkpoint)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, EarlyStopping):
                state["patience"] = callback.patience
            if state and isinstance(callback, ModelCheckpoint):
                move_best(state, str(callback.dirpath), self._goes_on(trainer))

    def _goes_on(self, trainer: Trainer) -> bool:
        return trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() == self.path.resolve()

    def _prefer_typed_settings(self, model: Classifier, checkpoint: dict[str, Any]) -> None:
        # Lightning would restore the stored learning rate over one that was typed, and a OneCycleLR that ends too soon.
        stored, wanted, steps = checkpoint["hyper_parameters"], model.hparams, checkpoint["global_step"]
        same = all(same_factory(stored[name], wanted[name]) for name in ("optimizer", "lr_scheduler"))
        for schedule in checkpoint["lr_schedulers"]:
            if "total_steps" in schedule:
                began = steps - schedule["last_epoch"]
                same &= schedule["total_steps"] == model.schedule_steps(began)
        if not same:
            model.begin_schedule(checkpoint)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_trained:
            trainer.should_stop = True

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_trained and not self.is_drawn:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, TrainingHistory | CollectTest):
                    callback.on_train_end(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if state := self._loaded:
            # At the last moment before the first batch: everything up to here may have drawn random numbers.
            torch.set_rng_state(state["torch"])
            if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])
            kind, keys, *position = state["numpy"]
            np.random.set_state((kind, keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
            random.setstate(state["python"])
            if isinstance(trainer.train_dataloader, ResumableLoader):
                trainer.train_dataloader.skip = state["batches_done"]
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_restart(trainer)  # before the epoch's counters are reset: a resumed epoch is one like any other
        self._save(trainer)
        if self._told(trainer):
            raise KeyboardInterrupt

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end_restart(trainer)
        # Not between two halves of an optimizer step, nor before a validation that belongs to this batch.
        done, validation = batch_idx + 1, trainer.val_check_batch
        whole = done % trainer.accumulate_grad_batches == 0 and not (validation and done % validation == 0)
        if whole and not trainer.is_last_batch and self._told(trainer):
            self._batches_done = done
            self._save(trainer)
            raise KeyboardInterrupt

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._restore_handlers()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _end_restart(self, trainer: Trainer) -> None:
        # Lightning ends it after the epoch, and until then skips ReduceLROnPlateau for fear of stepping it twice. Set
        # through the base class: the fit loop's own setter turns False into True where max_steps is given.
        if self._loaded is not None:
            _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]
            self._loaded = None

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # a killed run has its figures up to here
        if trainer.global_step:  # nothing trained, nothing to go on from
            trainer.save_checkpoint(self.path)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self._restore_handlers()

    def _told(self, trainer: Trainer) -> bool:
        # All processes of a distributed run stop after the same batch, whichever got the signal.
        return trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


def move_best(state: dict[str, Any], folder: str, is_same_run: bool) -> None:
    """Tell ModelCheckpoint where its files are now: Lightning stores paths as they were given, and compares texts.

    A folder that was moved, copied or given by another name would have it forget its best score, or take the best
    checkpoint for an old one and delete it. A new run owns no file of the run that it starts from.

    Args:
        state: The state of a ModelCheckpoint; altered in place.
        folder: Where it saves now.
        is_same_run: Whether the run is resumed in its folder, or in a copy of that.
    """
    before = state["dirpath"]
    if not is_same_run:
        if before != folder:
            state["best_model_path"] = ""
        return
    paths = state["best_k_models"]
    moved = {path: path if before == folder else os.path.join(folder, os.path.relpath(path, before)) for path in paths}
    moved = {path: new for path, new in moved.items() if "://" in new or os.path.exists(new)}
    state["dirpath"] = folder
    state["best_k_models"] = {new: paths[path] for path, new in moved.items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved.get(state[key], "")
    if not state["best_model_path"]:
        state["best_model_score"] = None
