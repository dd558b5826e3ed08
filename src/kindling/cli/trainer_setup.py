"""Options and callbacks of the Trainer, on top of those that a user chooses."""

import logging
import os
import re
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from kindling.cli.run_session import RunSession
from kindling.cli.trainer_checks import check_devices, check_tasks, check_trainer
from kindling.training import (
    EpochProfiler,
    ExactResume,
    LayerHealthMonitor,
    ProgressBar,
    StandardNames,
    TerminateOnNaN,
    TestOutputCollector,
)
from kindling.training.batch_limits import BatchLimits
from kindling.training.checkpoint_io import Loaded, write_atomically
from kindling.training.launcher import watch_processes
from kindling.training.random_state import SeedByRank
from kindling.training.sync_batch_norm import use_own_batch_norm
from kindling.training.user_callbacks import as_list, combine, has_progress_bar
from kindling.utils.launch import find_launch

logger = logging.getLogger(__name__)

# What `--trainer.barebones true` stands for: training and testing without files, logs or a progress bar. The Trainer's
# own barebones mode also turns off `self.log`, so there are no metrics.
BAREBONES = {
    "barebones": False,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 0,
}


def prepare_options(options: MutableMapping[str, Any], config: Namespace) -> None:
    """Check the options of the Trainer, and replace those that Kindling handles differently, in place.

    Raises:
        ValueError: If an option is out of range.
    """
    check_trainer(options)
    for name, value in ((BAREBONES if options["barebones"] else {}) | devices_of_torchrun()).items():
        options[name] = value
    options["strategy"] = replace_spawn(options["strategy"])
    if isinstance(options["strategy"], str):
        config["trainer"]["strategy"] = options["strategy"]


def devices_of_torchrun() -> dict[str, int]:
    """Return the options of the Trainer that torchrun decides, `devices` and `num_nodes`; none without torchrun."""
    if (launch := find_launch()).launcher != "torchrun":
        return {}
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": devices, "num_nodes": launch.processes // devices}


def replace_spawn(strategy: Any) -> Any:
    """Replace a strategy that spawns or forks processes with one that starts commands.

    Spawned processes train copies of model, data and callbacks, whose state the main process would not get back.
    """
    if isinstance(strategy, str) and (found := re.match("ddp_(spawn|fork|notebook)", strategy)):
        logger.warning(f"--trainer.strategy {found[0]} is for notebooks and scripts; using ddp instead")
        return strategy.replace(found[0], "ddp")
    if isinstance(strategy, DDPStrategy):
        strategy._start_method = "popen"
    return strategy


def add_run(options: MutableMapping[str, Any], config: Namespace, session: RunSession, steps: int | None) -> None:
    """Let a Trainer, whose options are changed in place, write into a run folder.

    `steps` is the number of optimizer steps of the checkpoint from which the training resumes, if it does.
    """
    session.resume.every_n_minutes = config["checkpoint"]["every_n_minutes"]
    session.resume.every_n_steps = config["checkpoint"]["every_n_steps"]
    options["default_root_dir"] = session.path
    options["logger"] = session.loggers(options["logger"], steps)
    if config["profile"]:
        options["profiler"] = rank_zero_only(EpochProfiler)(session.path)
        config["profile"] = False  # a run that repeats or resumes this one is not profiled too


def prepare_trainer(
    trainer: Trainer, command: str, run_folder: Path | None, loaded: Loaded | None, clean_up: Callable[[], None]
) -> None:
    """Check the processes of a Trainer, and replace its parts that Kindling handles differently.

    Args:
        trainer: The Trainer.
        command: fit, validate, test or predict.
        run_folder: Folder of the run that is trained, if any.
        loaded: Path and contents of the checkpoint, which is not read again.
        clean_up: Called before this process exits because another one has failed.

    Raises:
        ValueError: If too many processes would start, or not all tasks of a job would train together.
    """
    check_devices(trainer)
    if command == "fit":
        check_tasks(trainer)
    use_own_batch_norm(trainer)
    write_atomically(trainer.strategy, run_folder, loaded)
    watch_processes(trainer, clean_up)


def remove_averaging(trainer: Trainer) -> None:
    """Remove callbacks that average weights: in a test they would put the raw weights of a checkpoint back."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]


def trainer_callbacks(
    options: MutableMapping[str, Any],
    config: Namespace,
    configured: Iterable[Callback],
    session: RunSession | None,
    collector: TestOutputCollector,
) -> list[Callback]:
    """Return all callbacks of a Trainer apart from the one that writes `config.yaml`.

    Args:
        options: Options of the Trainer, with the callbacks of the user.
        config: Options of the command; only those of `fit` have `watch`.
        configured: Callbacks that other options configure, such as early stopping.
        session: The run that is trained, if any.
        collector: Callback that collects the outputs of a test.
    """
    users, saves = as_list(options["callbacks"]), options["enable_checkpointing"] is not False
    shows_progress = options["enable_progress_bar"] is not False and not has_progress_bar(users)
    written = session.callbacks() if session else []
    # Lightning calls them in this order, except that those that save checkpoints come last. `ExactResume` moves behind
    # the callbacks whose state it saves.
    return [
        # Standard names before early stopping and others look for them; Kindling's before the user's, see `combine`.
        *combine(users, [StandardNames(), *configured], session.path if session else None, saves),
        BatchLimits(),
        SeedByRank(),
        *([ProgressBar()] if shows_progress else []),
        *([TerminateOnNaN(wait=config["watch"])] if "watch" in config else []),
        *([LayerHealthMonitor()] if config.get("watch") else []),
        *(callback for callback in written if saves or not isinstance(callback, ExactResume)),
        collector,  # draws plots, which takes time, when everything else has been written
    ]
