"""How `kindling fit` ends: why it stopped, and what to type next."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from kindling.runs.folders import RUNS
from kindling.utils.console import as_command, say


def print_early_stop_reason(trainer: Trainer, run: Path | None) -> None:
    """Say why the training stopped early, where it did, and how to resume a run that was not over.

    Args:
        trainer: The trainer that stopped.
        run: The run folder, if checkpoints are saved there.
    """
    stoppers = [each for each in trainer.early_stopping_callbacks if each.stopping_reason_message]
    if trainer.should_stop and stoppers:
        stopper = stoppers[0]
        reason = str(stopper.stopping_reason_message)
        if stopper.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            figure = trainer.callback_metrics[stopper.monitor].item()
            reason = f"{stopper.monitor} is {figure:g}, where each training loss was finite: look at its samples"
        say(f"stopped early: {reason}")
    elif trainer.global_step and (_is_out_of_time(trainer) or not trainer.is_last_batch):
        reason = "a callback asked for it" if trainer.should_stop else f"--trainer.max_steps {trainer.max_steps}"
        if _is_out_of_time(trainer):
            reason = "its time is up (--trainer.max_time)"
        where = f"after step {trainer.global_step}, in epoch {trainer.current_epoch}"
        say(f"stopped {where}: {reason}" + (f"; resume with: {_resume(trainer, run)}" if run else ""))


def print_next_steps(trainer: Trainer, run: Path, is_trainable: bool, predicts: bool) -> None:
    """Say where the run is, and the commands that use it."""
    if not trainer.checkpoint_callbacks:
        say(f"run: {run}\nno checkpoint was saved (--trainer.enable_checkpointing false): this run cannot be resumed")
        return
    say(f"run: {run}\nnext:")
    if predicts:
        say("  " + as_command("kindling", "predict --ckpt_path", run))
    if is_trainable:
        say("  " + _resume(trainer, run))
    say("  " + as_command("tensorboard", "--logdir", RUNS))


def _resume(trainer: Trainer, run: Path) -> str:
    """Return the command that trains a run for longer."""
    stopper = trainer.early_stopping_callback
    if _is_out_of_time(trainer):
        more = []  # the next session has as much time again
    elif trainer.max_steps == trainer.global_step:
        more = [f"--trainer.max_steps {2 * trainer.max_steps}"]
    elif trainer.should_stop and not trainer.is_last_batch:
        more = []
    else:
        more = [f"--trainer.max_epochs {2 * max(trainer.current_epoch, trainer.max_epochs or 0)}"]
        if trainer.should_stop and stopper and stopper.stopping_reason_message:
            more.append("--early_stopping.patience null")  # it would stop again at once
    return as_command("kindling", "fit --ckpt_path", run, *more)


def _is_out_of_time(trainer: Trainer) -> bool:
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return trainer.should_stop and any((timer.time_remaining() or 1) <= 0 for timer in timers)
