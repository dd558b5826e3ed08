"""Messages at the start and end of `kindling fit`: the model, why it stopped, and the next commands."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from kindling.models import ClassificationTask
from kindling.runs.folders import RUNS
from kindling.utils.console import as_command, say
from kindling.utils.shared_batches import synchronizes_batch_norm, trained_batch_norms


def print_model(model: LightningModule, run_folder: Path | None, trainer: Trainer) -> None:
    """Print the model, its number of parameters, the number of processes and the run folder.

    If a threshold is used, also print the positive class.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    say(f"{type(model).__name__}, {parameters:,} parameters{processes}: {run_folder or 'no files are written'}")
    if processes and trained_batch_norms(model) and not synchronizes_batch_norm(trainer):
        say(
            "each process computes its batch norm statistics from its own part of the batch; add "
            "--trainer.sync_batchnorm true to use the whole batch"
        )
    if not isinstance(model, ClassificationTask) or model.hparams.get("positive_class") is not None:
        return
    if threshold := model.threshold_metric or (model.threshold and model.threshold.value):
        positive = model.positive_class
        [other] = {*model.class_names} - {positive}
        say(f"threshold {threshold}: the positive class is {positive} (or --model.positive_class {other})")


def print_threshold(model: LightningModule) -> None:
    """Print the decision threshold of a classifier, if it has one."""
    if isinstance(model, ClassificationTask) and model.threshold:
        say(model.threshold.describe(model.class_names))


def print_early_stop_reason(trainer: Trainer, run_folder: Path | None) -> None:
    """Print why training stopped early, if it did, and how to resume it in its run folder."""
    stoppers = [each for each in trainer.early_stopping_callbacks if each.stopping_reason_message]
    if trainer.should_stop and stoppers:
        stopper = stoppers[0]
        reason = str(stopper.stopping_reason_message)
        if stopper.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            value = trainer.callback_metrics[stopper.monitor].item()
            reason = f"{stopper.monitor} is {value:g}, although all training losses are finite: check its samples"
        say(f"stopped early: {reason}")
    elif trainer.global_step and (_is_out_of_time(trainer) or not trainer.is_last_batch):
        reason = "requested by a callback" if trainer.should_stop else f"--trainer.max_steps {trainer.max_steps}"
        if _is_out_of_time(trainer):
            reason = "time limit reached (--trainer.max_time)"
        where = f"after step {trainer.global_step}, in epoch {trainer.current_epoch}"
        resume = f"; resume with: {_resume(trainer, run_folder)}" if run_folder and trainer.checkpoint_callbacks else ""
        say(f"stopped {where}: {reason}{resume}")


def print_next_steps(trainer: Trainer, run_folder: Path, is_trainable: bool, predicts: bool) -> None:
    """Print the run folder and the commands that use it."""
    if not trainer.checkpoint_callbacks:
        say(f"run: {run_folder}")
        say("no checkpoint was saved (--trainer.enable_checkpointing false): this run cannot be resumed")
        return
    say(f"run: {run_folder}\nnext:")
    if predicts:
        say("  " + as_command("kindling", "predict --ckpt_path", run_folder))
    if is_trainable:
        say("  " + _resume(trainer, run_folder))
    say("  " + as_command("tensorboard", "--logdir", RUNS))


def _resume(trainer: Trainer, run_folder: Path) -> str:
    """Return the command that continues the training of a run."""
    stopper = trainer.early_stopping_callback
    if _is_out_of_time(trainer):
        more = []  # the time limit applies to each session
    elif trainer.max_steps == trainer.global_step:
        more = [f"--trainer.max_steps {2 * trainer.max_steps}"]
    elif trainer.should_stop and not trainer.is_last_batch:
        more = []
    else:
        more = [f"--trainer.max_epochs {2 * max(trainer.current_epoch, trainer.max_epochs or 0)}"]
        if trainer.should_stop and stopper and stopper.stopping_reason_message:
            more.append("--early_stopping.patience null")  # or it would stop again immediately
    return as_command("kindling", "fit --ckpt_path", run_folder, *more)


def _is_out_of_time(trainer: Trainer) -> bool:
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return trainer.should_stop and any((timer.time_remaining() or 1) <= 0 for timer in timers)
