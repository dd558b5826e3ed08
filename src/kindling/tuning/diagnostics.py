"""`kindling fit --find_lr` and `--overfit`, which run a diagnostic instead of the training."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from kindling.models.task import BaseTask
from kindling.tuning.learning_rate import Suggestion, find_lr
from kindling.tuning.overfit import overfit_batch
from kindling.tuning.short_fit import TRAINER_KEYS
from kindling.utils.console import as_command, progress, say
from kindling.utils.errors import UsageError

FLAGS = {
    "overfit": "Only check whether the network can overfit one batch; save nothing.",
    "find_lr": "Only find a learning rate and plot the loss against it; save no checkpoint.",
}


def is_wanted(config: Mapping[str, Any]) -> bool:
    """Return whether any diagnostic is requested."""
    return any(config.get(name) for name in FLAGS)


def run_diagnostic(
    model: LightningModule,
    data: LightningDataModule | None,
    config: Mapping[str, Any],
    plot: Path,
    typed: Sequence[str],
    epochs_completed: int,
) -> None:
    """Run the requested diagnostics and print their results.

    The learning-rate finder draws a plot, and suggests a command with the typed options. If the checkpoint has
    completed epochs, that command trains longer.

    Raises:
        UsageError: If the model is not derived from `BaseTask`, or has no data module.
        ValueError: If the network can't overfit one batch, or no learning rate reduces the loss.
    """
    if not isinstance(model, BaseTask) or data is None:
        found = type(model).__name__ + (" without a data module" if data is None else "")
        raise UsageError(
            f"--overfit and --find_lr need a model derived from kindling.BaseTask and a data module, got {found}"
        )
    options = {name: config["trainer"][name] for name in TRAINER_KEYS if config["trainer"][name] is not None}
    if config["overfit"]:
        result = overfit_batch(model, data, **options)
        if not result.succeeded:
            raise ValueError(str(result))
        say(str(result))
    if config["find_lr"]:
        suggestion = find_lr(model, data, **options)
        with progress(f"writing {plot}"):
            suggestion.plot(plot)
        if suggestion.lr is None:
            raise ValueError(f"no learning rate reduces the loss: see {plot}, and try --overfit")
        typed = [part for part in typed if part not in {f"--{flag}" for flag in FLAGS}]
        if epochs_completed and 0 <= (config["trainer"]["max_epochs"] or -1) <= epochs_completed:
            typed += ["--trainer.max_epochs", str(2 * epochs_completed)]
        schedule = model.training_options["lr_scheduler"] or {"class_path": "", "init_args": {}}
        _report(suggestion, plot, typed, has_own_peak=schedule["init_args"].get("max_lr") is not None)
        if schedule["class_path"].endswith(".CyclicLR"):
            say("CyclicLR has its own learning rates: set --model.lr_scheduler.base_lr and --model.lr_scheduler.max_lr")


def _report(suggestion: Suggestion, plot: Path, typed: list[str], has_own_peak: bool) -> None:
    rates, rate = suggestion.rates, f"{suggestion.lr:g}"
    reason = "a quarter of the rate with the lowest loss"
    if suggestion.peaked:
        reason = "the rate with the lowest loss, as the peak of the schedule"
    say(f"learning rate: {rate}, {reason} ({len(rates)} steps, from {rates[0]:.0e} to {rates[-1]:.0e})")
    say(f"plot: {plot}\nnext:")
    typed += ["--model.optimizer.lr", rate]
    if suggestion.peaked and has_own_peak:
        typed += ["--model.lr_scheduler.max_lr", rate]
    say("  " + as_command("kindling", "fit", *map(shlex.quote, typed)))
