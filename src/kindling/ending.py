"""How `kindling fit` ends: why it stopped, and what to type next."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from kindling.console import as_typed, say
from kindling.runs import RUNS


def say_why_early(trainer: Trainer) -> None:
    """Says why the training stopped early, where it did."""
    stopper = trainer.early_stopping_callback
    if trainer.should_stop and stopper and stopper.stopping_reason_message:
        reason = stopper.stopping_reason_message
        if stopper.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            figure = trainer.callback_metrics[stopper.monitor].item()
            reason = f"{stopper.monitor} is {figure:g}, where each training loss was finite: look at its samples"
        say(f"stopped early: {reason}")


def say_next(trainer: Trainer, run: Path, is_trainable: bool) -> None:
    """Says where the run is, and the commands that go on from it."""
    more = f"--trainer.max_epochs {2 * max(trainer.current_epoch, trainer.max_epochs or 0)}"
    more += " --early_stopping.patience null" * trainer.should_stop  # it would stop again at once
    say(f"run: {run}\nnext:")
    say("  " + as_typed("kindling", "predict --ckpt_path", run))
    if is_trainable:
        say("  " + as_typed("kindling", "fit --ckpt_path", run, more))
    say("  " + as_typed("tensorboard", "--logdir", RUNS))
