"""`fit`: train a model, say why it stopped, test it and print what to do next."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from kindling.cli.run_session import RunSession
from kindling.cli.stage_support import has_stage
from kindling.cli.summary import print_early_stop_reason, print_model, print_next_steps
from kindling.cli.trainer_setup import remove_averaging
from kindling.data import BaseDataModule
from kindling.runs.checkpoints import restoring
from kindling.training.user_callbacks import naming_monitors
from kindling.utils.console import as_command, results_table, say
from kindling.utils.stop_signals import interruption


def is_trainable(model: LightningModule) -> bool:
    """Return whether a model has trainable parameters; an ensemble has none."""
    return any(parameter.requires_grad for parameter in model.parameters())


@dataclass(frozen=True)
class Fitter:
    """Trains a model in a run.

    Attributes:
        trainer: The Trainer.
        model: The model.
        data: The data module; None for a model with its own data.
        session: The run; None if no files are written.
        checkpoint: Checkpoint from which the training resumes.
        is_trained: Whether a resumed run lacks only its plots and test.
    """

    trainer: Trainer
    model: LightningModule
    data: LightningDataModule | None
    session: RunSession | None
    checkpoint: Path | None
    is_trained: bool

    def train(self, **kwargs: Any) -> None:
        """Train the model with arguments of `Trainer.fit`, and record its splits."""
        if self.session and isinstance(self.data, BaseDataModule):
            rank_zero_only(self.data.write_split)(self.session.path)
        print_model(self.model, self._run_folder, self.trainer)
        if not is_trainable(self.model):
            self._save_untrained(**kwargs)
            return
        if self.session and self.is_trained:
            say("training is complete: finishing the plots and the test")
            self.session.resume.is_trained = True
        with restoring(self.checkpoint), naming_monitors(self.trainer):
            self.trainer.fit(**kwargs | {"ckpt_path": self.checkpoint, "weights_only": True})

    def finish(self, test: Callable[[Path | None], None] | None, is_trial: bool) -> None:
        """Test the model unless a signal has stopped the training, and print the next commands.

        Args:
            test: Tests a checkpoint, or the current weights if it gets None; None for no test.
            is_trial: Whether the run is a trial of a study.

        Raises:
            KeyboardInterrupt: If a signal has stopped a trial, or asks this process to end before the test.
        """
        session = self.session
        print_early_stop_reason(self.trainer, self._run_folder)
        if session and (number := session.resume.signal):
            say("trained to the end; test it with: " + as_command("kindling", "test --ckpt_path", session.path))
            if is_trial or (number != signal.SIGINT and test):  # no further trial starts
                raise interruption(number)
            return
        if test:
            remove_averaging(self.trainer)
            test(session.tested_checkpoint(self.trainer) if session else None)
        if session:
            has_prediction = has_stage(self.model, self.data, "predict")
            print_next_steps(self.trainer, session.path, is_trainable(self.model), has_prediction)

    def _save_untrained(self, **kwargs: Any) -> None:
        """Validate a model without trainable parameters, and save it as the best checkpoint of the run."""
        if self.session:
            self.session.record.begin(self.trainer)
        results = self.trainer.validate(**kwargs | {"ckpt_path": None, "verbose": False})
        for metrics in results:
            say(results_table("validation split", metrics))
        if self.session:
            self.session.save_untrained(self.trainer, results[0] if results else {})

    @property
    def _run_folder(self) -> Path | None:
        return self.session.path if self.session else None
