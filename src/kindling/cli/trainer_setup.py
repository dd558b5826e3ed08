"""Options and callbacks of the Trainer, on top of those that a user chooses."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_only

from kindling.cli.option_checks import apply_barebones, check_trainer
from kindling.cli.run_session import RunSession
from kindling.training import (
    EpochProfiler,
    LayerHealthMonitor,
    ProgressBar,
    StandardNames,
    TerminateOnNaN,
    TestOutputCollector,
)
from kindling.training.batch_limits import BatchLimits
from kindling.training.processes import devices_of_torchrun, replace_spawn
from kindling.training.random_state import SeedByRank
from kindling.training.user_callbacks import as_list, combine, has_progress_bar


def prepare_options(options: MutableMapping[str, Any], config: Namespace) -> None:
    """Check the options of the Trainer, and replace those that Kindling handles differently, in place.

    Args:
        options: Options of the Trainer, with instances of classes.
        config: Options of the command, which `config.yaml` stores.

    Raises:
        ValueError: If an option is out of range.
    """
    check_trainer(options)
    if options["barebones"]:
        apply_barebones(options)
    for name, number in devices_of_torchrun().items():
        options[name] = number
    options["strategy"] = replace_spawn(options["strategy"])
    if isinstance(options["strategy"], str):
        config["trainer"]["strategy"] = options["strategy"]


def add_run(options: MutableMapping[str, Any], config: Namespace, run: RunSession, steps: int | None) -> None:
    """Let a Trainer write into a run folder, by its loggers and profiler; `options` are changed in place.

    Args:
        options: Options of the Trainer.
        config: Options of `fit`.
        run: The run.
        steps: Optimizer steps of the checkpoint from which the training resumes, if it does.
    """
    run.resume.every_n_minutes = config["checkpoint"]["every_n_minutes"]
    run.resume.every_n_steps = config["checkpoint"]["every_n_steps"]
    options["default_root_dir"] = run.path
    options["logger"] = run.loggers(options["logger"], steps)
    if config["profile"]:
        options["profiler"] = rank_zero_only(EpochProfiler)(run.path)
        config["profile"] = False  # a run that repeats or resumes this one is not profiled too


def remove_averaging(trainer: Trainer) -> None:
    """Remove callbacks that average weights: in a test they would put the raw weights of a checkpoint back."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]


def trainer_callbacks(
    options: MutableMapping[str, Any],
    config: Namespace,
    configured: Iterable[Callback],
    run: RunSession | None,
    collector: TestOutputCollector,
) -> list[Callback]:
    """Return all callbacks of a Trainer apart from the one that writes `config.yaml`.

    Args:
        options: Options of the Trainer, with the callbacks of the user.
        config: Options of the command; only those of `fit` have `watch`.
        configured: Callbacks that other options configure, such as early stopping.
        run: The run that is trained, if any.
        collector: Callback that collects the outputs of a test.
    """
    saves = options["enable_checkpointing"] is not False
    path = run.path if run else None
    callbacks = combine(as_list(options["callbacks"]), [StandardNames(), *configured], path, saves)
    callbacks += [BatchLimits(), SeedByRank()]
    if options["enable_progress_bar"] is not False and not has_progress_bar(options["callbacks"]):
        callbacks.append(ProgressBar())
    if "watch" in config:
        callbacks.append(TerminateOnNaN(wait=config["watch"]))
        callbacks += [LayerHealthMonitor()] * config["watch"]
    if run:
        callbacks += [callback for callback in run.callbacks() if saves or callback is not run.resume]
    return [*callbacks, collector]
