"""What `fit` does instead of training: a diagnostic, or saving a model without trainable parameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from kindling.cli.run_session import RunSession
from kindling.tuning import diagnostics
from kindling.utils.console import results_table, say


def is_trainable(model: LightningModule) -> bool:
    """Return whether a model has trainable parameters; an ensemble has none."""
    return any(parameter.requires_grad for parameter in model.parameters())


def run_diagnostic(
    model: LightningModule,
    data: LightningDataModule | None,
    config: Mapping[str, Any],
    plot: Path,
    options: Sequence[str],
    epochs_completed: int,
) -> None:
    """Run `--overfit` or `--find_lr`.

    Args:
        model: The model.
        data: The data module.
        config: The configuration of `fit`.
        plot: Path of the plot of the learning-rate finder.
        options: Options on the command line.
        epochs_completed: Number of epochs that the checkpoint was trained for; the suggested command trains longer.
    """
    if epochs_completed and 0 <= (config["trainer"]["max_epochs"] or -1) <= epochs_completed:
        options = [*options, "--trainer.max_epochs", str(2 * epochs_completed)]
    diagnostics.run_diagnostic(model, data, config, plot, options)


def save_untrained(trainer: Trainer, session: RunSession | None, **kwargs: Any) -> None:
    """Validate a model without trainable parameters, and save it as the best checkpoint of the run.

    Args:
        trainer: The Trainer.
        session: The run; None if no files are written.
        **kwargs: Arguments of `Trainer.validate`.
    """
    if session:
        session.record.begin(trainer)
    results = trainer.validate(**kwargs | {"ckpt_path": None, "verbose": False})
    for metrics in results:
        say(results_table("validation split", metrics))
    if session:
        session.save_untrained(trainer, results[0] if results else {})
