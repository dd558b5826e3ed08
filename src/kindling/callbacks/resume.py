"""A last checkpoint from which a run goes on to the very same weights."""

import random
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from kindling.models.classifier import Classifier


class ExactResume(Callback):
    """Keeps `last.ckpt` so that a killed, interrupted or finished run goes on as if it had never stopped.

    Written before each epoch and at the end of training, when schedulers and early stopping have had their say
    (Lightning's own ModelCheckpoint writes before ReduceLROnPlateau steps). Ctrl-C and SIGTERM are obeyed after the
    batch in hand, with everything saved; a second one stops at once. The order of the samples is the data module's
    part: it follows from seed and epoch.

    Args:
        folder: Folder for `last.ckpt`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._random_state: dict[str, Any] | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        kind, keys, *position = np.random.get_state()  # noqa: NPY002  (the global generator is the one to keep)
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *position],
            "python": random.getstate(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_state = state_dict

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning would restore the stored learning rate over one that was typed, and a OneCycleLR that ends too soon.
        if trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, Classifier)
        stored, wanted, steps = checkpoint["hyper_parameters"], pl_module.hparams, checkpoint["global_step"]
        same = all(stored[name] == wanted[name] for name in ("optimizer", "lr_scheduler"))
        for schedule in checkpoint["lr_schedulers"]:
            if "total_steps" in schedule:
                began = steps - schedule["last_epoch"]
                same &= schedule["total_steps"] == trainer.estimated_stepping_batches - began
        if same:
            return
        # The optimizer keeps its momentum where it fits; the schedule begins anew over the steps that remain.
        pl_module.schedule_start = steps
        configured = pl_module.configure_optimizers()
        optimizer = (configured["optimizer"] if isinstance(configured, dict) else configured).state_dict()
        if stored["optimizer"]["class_path"] == wanted["optimizer"]["class_path"]:
            optimizer["state"] = checkpoint["optimizer_states"][0]["state"]
        checkpoint["optimizer_states"] = [optimizer]
        checkpoint["lr_schedulers"] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if state := self._random_state:
            # At the last moment before the first batch: everything up to here may have drawn random numbers.
            torch.set_rng_state(state["torch"])
            if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
                torch.cuda.set_rng_state_all(state["cuda"])
            kind, keys, *position = state["numpy"]
            np.random.set_state((kind, keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
            random.setstate(state["python"])
            self._random_state = None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.restarting = False  # a resumed epoch is an epoch like any other: its counters begin at zero
        trainer.save_checkpoint(self.path)
        self._stop_if_told(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning would keep ReduceLROnPlateau from stepping after a resumed epoch, for fear of doing it twice.
        trainer.fit_loop.restarting = False
        # The last batch of an epoch is left to the next epoch's start: validation still belongs to it.
        if not trainer.is_last_batch and self._told(trainer):
            trainer.save_checkpoint(self.path)
            self._stop_if_told(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        self._restore_handlers()
        self._stop_if_told(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore_handlers()

    def _told(self, trainer: Trainer) -> bool:
        # All processes of a distributed run stop after the same batch, whichever got the signal.
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _stop_if_told(self, trainer: Trainer) -> None:
        if self._told(trainer):
            raise KeyboardInterrupt

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
