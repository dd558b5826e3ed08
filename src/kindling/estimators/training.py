"""Training in memory: as `kindling fit` trains, but without files, messages or traces in the process."""

import copy
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningDataModule, Trainer
from typing_extensions import override

from kindling.models import BaseTask
from kindling.training import ProgressBar, TerminateOnNaN
from kindling.training.random_state import random_state, restore_random_state
from kindling.training.user_callbacks import combine
from kindling.utils.console import silence_libraries

LOCK = threading.RLock()  # the seed, the filters and the environment belong to the process
RESUME_ONLY = ("optimizer_states", "lr_schedulers", "callbacks", "loops")  # keys of a checkpoint


class MemoryCheckpointIO(CheckpointIO):
    """Keeps the last checkpoint in memory, without what only resuming needs."""

    saved: dict[str, Any]

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: object, storage_options: Any = None) -> None:
        self.saved = copy.deepcopy({key: value for key, value in checkpoint.items() if key not in RESUME_ONLY})

    @override
    def load_checkpoint(self, path: object, *_: Any, **__: Any) -> dict[str, Any]:
        return self.saved

    @override
    def remove_checkpoint(self, path: object) -> None:
        """Do nothing: the next checkpoint replaces it."""


@contextmanager
def undisturbed(verbose: bool) -> Iterator[None]:
    """Leave the random state, the environment, warnings and logging of the process as they were."""
    loggers = [logging.getLogger(name) for name in ("kindling", "lightning.pytorch", "lightning.fabric")]
    with LOCK, warnings.catch_warnings(), patch.dict(os.environ):
        levels, hook, state = [logger.level for logger in loggers], threading.excepthook, random_state()
        silence_libraries()
        if not verbose:
            loggers[0].setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            threading.excepthook = hook
            restore_random_state(state)


def fit_model(
    model: BaseTask, data: LightningDataModule, callbacks: Sequence[Callback], verbose: bool, **options: Any
) -> dict[str, Any]:
    """Train a model, restore its best weights, and return its best checkpoint without the weights.

    One of the callbacks saves the best checkpoint; `options` are arguments of the Trainer.
    """
    memory = MemoryCheckpointIO()
    ours = [*callbacks, TerminateOnNaN(), *([ProgressBar()] if verbose else [])]
    trainer = Trainer(
        callbacks=combine([], ours, None, saves=True),
        plugins=[memory, LightningEnvironment()],  # a job of SLURM with several tasks is for commands
        devices=1,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=verbose,
        enable_model_summary=False,
        enable_autolog_hparams=False,
        **options,
    )
    trainer.fit(model, data)
    model.load_state_dict(memory.saved.pop("state_dict"))
    model.restore_learned(memory.saved)
    model.trainer = None
    model.cpu().eval()
    return memory.saved
