"""`kindling fit --find_lr` and `--overfit`: a trial in place of the training."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from kindling.models.task import BaseTask
from kindling.tuning.learning_rate import Suggestion, find_lr
from kindling.tuning.overfit import overfit_batch
from kindling.tuning.short_fit import TRAINER_KEYS
from kindling.utils.console import as_command, say

FLAGS = {
    "overfit": "Only find out whether the network can learn one batch by heart; keep nothing.",
    "find_lr": "Only find a learning rate, and draw the loss against it; train nothing.",
}


def is_wanted(config: Mapping[str, Any]) -> bool:
    """Whether a trial is asked for."""
    return any(config.get(name) for name in FLAGS)


def run_diagnostic(
    model: BaseTask, data: LightningDataModule, config: Mapping[str, Any], picture: Path, typed: Sequence[str]
) -> None:
    """Runs the trials that are asked for and says what they found.

    Args:
        model: The model.
        data: What it is to be trained on.
        config: All that is configured.
        picture: Where the learning-rate finder draws its curve.
        typed: The options as typed.

    Raises:
        ValueError: If the network can't learn one batch, or no learning rate makes the loss fall.
    """
    options = {name: config["trainer"][name] for name in TRAINER_KEYS if config["trainer"][name] is not None}
    if config["overfit"]:
        learnt = overfit_batch(model, data, **options)
        if not learnt.whole:
            raise ValueError(str(learnt))
        say(str(learnt))
    if config["find_lr"]:
        found = find_lr(model, data, **options)
        found.plot(picture)
        if found.lr is None:
            raise ValueError(f"no learning rate makes the loss fall: see {picture}, and try --overfit")
        typed = [option for option in typed if option.lstrip("-") not in FLAGS]
        schedule = model.hparams["lr_scheduler"] or {"class_path": "", "init_args": {}}
        _report(found, picture, typed, has_own_peak=schedule["init_args"].get("max_lr") is not None)
        if schedule["class_path"].endswith(".CyclicLR"):
            say("CyclicLR has rates of its own: set --model.lr_scheduler.base_lr and --model.lr_scheduler.max_lr")


def _report(found: Suggestion, picture: Path, typed: list[str], has_own_peak: bool) -> None:
    rates, rate = found.rates, f"{found.lr:g}"
    way = (
        "where the loss is lowest, as the peak of the schedule"
        if found.peaked
        else "a quarter of where the loss is lowest"
    )
    say(f"learning rate: {rate}, {way} ({len(rates)} steps, from {rates[0]:.0e} to {rates[-1]:.0e})")
    say(f"picture: {picture}\nnext:")
    typed += ["--model.optimizer.lr", rate]
    if found.peaked and has_own_peak:
        typed += ["--model.lr_scheduler.max_lr", rate]
    say("  " + as_command("kindling", "fit", *map(shlex.quote, typed)))
