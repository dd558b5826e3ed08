"""Options of `fit` and the Trainer whose values need a check, or mean something else here than to Lightning."""

import os
import random
import unicodedata
from collections.abc import Mapping, MutableMapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from jsonargparse._util import import_object
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from kindling.utils.errors import UsageError
from kindling.utils.text import join_names, shorten, suggest

MOST_PROCESSES = 8  # on the CPU, however few cores it has: enough to try out distributed training
LONGEST_NAME = 120  # bytes: file systems allow 255, and some names of files in the run hold the name of the run
# The Trainer's own barebones mode switches off `self.log` too, and so leaves no result.
BAREBONES = {
    "barebones": False,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 0,
}


# The smallest value of options with which Lightning would divide by zero, go backwards or never end.
SMALLEST = {
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "fast_dev_run": 0,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "num_sanity_val_steps": -1,
    "check_val_every_n_epoch": 1,
    "accumulate_grad_batches": 1,
    "reload_dataloaders_every_n_epochs": 0,
}
SHARES = ("overfit_batches", *(f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")))

# The names that options of the Trainer take, some of them besides classes.
CHOICES = {
    "strategy": ("auto", *StrategyRegistry.available_strategies()),
    "accelerator": ("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
    "gradient_clip_algorithm": ("norm", "value"),
}


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Raise ValueError where an option of the Trainer is out of range."""
    for name, least in SMALLEST.items():
        if (value := trainer[name]) is not None and value < least:
            raise ValueError(f"--trainer.{name} must be at least {least}, got {value}")
    for name in SHARES:
        value = trainer[name]
        if value is not None and (value < 0 or (isinstance(value, float) and value > 1)):
            raise ValueError(f"--trainer.{name} must be a number of batches or a share from 0 to 1, got {value}")
    if isinstance(interval := trainer["val_check_interval"], int | float) and interval <= 0:
        raise ValueError(f"--trainer.val_check_interval must be positive, got {interval}")
    for name, known in CHOICES.items():
        if isinstance(value := trainer[name], str) and value.lower() not in known:
            near = suggest(value, known) or f": choose from {join_names(known, max_names=6)}"
            raise ValueError(f"there is no --trainer.{name} {shorten(value, 60) or repr(value)}{near}")
    check_time(trainer["max_time"])


def check_time(time: Any) -> None:
    """Raise ValueError where a time to train is not one that Lightning takes."""
    try:
        Timer(time)
    except (MisconfigurationException, TypeError, OverflowError) as error:
        raise ValueError(f"--trainer.max_time must be DD:HH:MM:SS such as 00:01:30:00, got {time}") from error


def check_nulls(parser: ArgumentParser, config: Namespace, group: str = "") -> None:
    """Raise UsageError where an option that must have a value is null, which jsonargparse does not check.

    Args:
        parser: The parser of the options.
        config: Their values.
        group: What precedes the names of the options, such as `model.`.
    """
    for action in parser._actions:
        name, kind, value = action.dest, getattr(action, "_typehint", Any), config.get(action.dest)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Namespace) and isinstance(item.get("init_args"), Namespace):
                check_nulls(_class_parser(item.class_path), item.init_args, f"{group}{name}.")
        if name in config and value is None and action.default is not None and not _takes_null(kind):
            raise UsageError(f"{group}{name}: null is not {getattr(kind, '__name__', kind)}")


def _class_parser(class_path: str) -> ArgumentParser:
    """Return a parser of the arguments of a class; of none where a function is named in its place."""
    parser, found = ArgumentParser(exit_on_error=False), import_object(class_path)
    if isinstance(found, type):
        parser.add_class_arguments(found, fail_untyped=False)
    return parser


def _takes_null(kind: Any) -> bool:
    return kind in (Any, NoneType) or (get_origin(kind) in (Union, UnionType) and any(map(_takes_null, get_args(kind))))


def check_devices(trainer: Trainer) -> None:
    """Raise ValueError where far more processes would compute on the CPU than it has cores."""
    most = max(MOST_PROCESSES, os.cpu_count() or 1)
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > most:
        raise ValueError(f"--trainer.devices {trainer.num_devices}: this machine trains in {most} processes at most")


def draw_seed(nodes: int = 1) -> int:
    """Draw a seed, the same in all processes of a distributed training.

    Args:
        nodes: Machines that train together; on each of them a process of its own begins.

    Raises:
        UsageError: If this process was started by a launcher that does not pass the seed on; in all of them, since one
            that went on would wait for the others.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if SLURMEnvironment.detect():  # srun sets no WORLD_SIZE
        processes = max(processes, int(os.environ["SLURM_NTASKS"]))
    if getattr(rank_zero_only, "rank", 0) == 0 and processes == nodes == 1:
        return random.SystemRandom().randrange(2**32)
    if "PL_GLOBAL_SEED" not in os.environ:
        raise UsageError("--seed_everything true would draw another seed in each process: give a number")
    return int(os.environ["PL_GLOBAL_SEED"])  # from the process that started this one


def check_seed(seed: int) -> None:
    """Raise UsageError unless NumPy and torch both take a seed."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed_everything must be from 0 to {2**32 - 1}, got {seed}")


def check_run_name(name: str) -> None:
    """Raise UsageError where a run of this name would lie outside of `runs/`, or could not be a folder there."""
    for folder in name.split("/"):
        reason = ""
        if folder in ("", ".", "..") or "\\" in folder:
            reason = "give the name of a folder inside runs/"
        elif folder != folder.strip():
            reason = "it begins or ends with a space"
        elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in folder):
            reason = "it contains a control character"
        elif len(folder.encode()) > LONGEST_NAME:
            reason = f"it is longer than {LONGEST_NAME} bytes"
        if reason:
            raise UsageError(f"--run_name {name[:40]!r}: {reason}")


def apply_barebones(trainer: MutableMapping[str, Any]) -> None:
    """Translate `--trainer.barebones true`: only train and test, without files, logs or a progress bar."""
    for name, value in BAREBONES.items():
        trainer[name] = value
