"""Check the options of `fit` and the Trainer, and adapt those that differ from Lightning's."""

import os
import random
import re
from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from jsonargparse._util import import_object
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from kindling.cli.parser_errors import CLASS_MISSING, NO_NAMES
from kindling.cli.recipe_checks import OPTION_GROUPS
from kindling.utils.console import say
from kindling.utils.errors import UsageError
from kindling.utils.launch import find_launch
from kindling.utils.text import join_names, shorten, suggest

MAX_CPU_PROCESSES = 8  # always allowed, to try distributed training on few cores
# The Trainer's own barebones mode also turns off `self.log`, so there are no metrics.
BAREBONES = {
    "barebones": False,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 0,
}
# Minimum values; with smaller ones, Lightning would divide by zero or never stop.
MINIMUM = {
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
DEVICES_OF_CPU = r"auto|[1-9]\d*"
DEVICES = rf"{DEVICES_OF_CPU}|-1|\[?\d+( ?, ?\d+)*,?\]?"
BATCH_LIMITS = ("overfit_batches", *(f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")))

# Names accepted by options of the Trainer, some of which also take a class.
CHOICES = {
    "strategy": ("auto", *StrategyRegistry.available_strategies()),
    "accelerator": ("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
    "gradient_clip_algorithm": ("norm", "value"),
}


def check_config(parser: ArgumentParser, config: Namespace, typed: Collection[str], checkpoint: Path | None) -> None:
    """Check the combined options of a command, and draw a random seed if requested, in place.

    Args:
        parser: Parser of the command.
        config: Options of the command, with defaults.
        typed: Names of the options on the command line.
        checkpoint: Checkpoint given on the command line.

    Raises:
        UsageError: If an option is missing, null, of the wrong type or without effect.
    """
    for name in OPTION_GROUPS:
        value = config.get(name, Namespace())
        if not isinstance(value, Namespace):
            off = f"--{name}.patience null turns it off" if name == "early_stopping" else "remove it for the defaults"
            shown = f"null: {off}" if value in (None, "null") else value
            raise UsageError(f"{name}: expected options such as --{name}.NAME VALUE, got {shown}")
    for key in ("model", "data"):
        if (named := config.get(key)) and named.class_path in NO_NAMES:
            raise UsageError(f"{key}: {CLASS_MISSING.format(key=key)}")
    if config["seed_everything"] is None:  # in a recipe it means true
        config["seed_everything"] = True
    check_nulls(parser, config)
    if config["ckpt_path"] is not None and checkpoint is None:
        raise UsageError("ckpt_path can't be set in a config file: add --ckpt_path PATH to the command line")
    schedule = config.get("model.init_args.lr_scheduler")
    peak = schedule and schedule.class_path.endswith(".OneCycleLR") and schedule.get("init_args.max_lr")
    if peak and "model.optimizer.lr" in typed and not any(name.startswith("model.lr_scheduler") for name in typed):
        raise UsageError(
            f"--model.optimizer.lr has no effect with OneCycleLR, whose max_lr is {peak}: add --model.lr_scheduler "
            "OneCycle, or set --model.lr_scheduler.max_lr"
        )
    if config["seed_everything"] is True:
        config["seed_everything"] = draw_seed(config["trainer"]["num_nodes"])
        say(f"seed: {config['seed_everything']}")
    elif config["seed_everything"] is not False:
        check_seed(config["seed_everything"])


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Raise ValueError if an option of the Trainer is out of range."""
    for name, minimum in MINIMUM.items():
        if trainer[name] is not None and trainer[name] < minimum:
            raise ValueError(f"--trainer.{name} must be at least {minimum}, got {trainer[name]}")
    for name in BATCH_LIMITS:
        value = trainer[name]
        if value is not None and (value < 0 or (isinstance(value, float) and value > 1)):
            raise ValueError(f"--trainer.{name} must be a number of batches or a fraction from 0 to 1, got {value}")
    interval = trainer["val_check_interval"]
    if isinstance(interval, int | float) and interval <= 0:
        raise ValueError(f"--trainer.val_check_interval must be positive, got {interval}")
    for name, known in CHOICES.items():
        value = trainer[name]
        if isinstance(value, str) and value.lower() not in known:
            near = suggest(value, known) or f": choose from {join_names(known, max_names=6)}"
            raise ValueError(f"there is no --trainer.{name} {shorten(value, 60) or repr(value)}{near}")
    check_accelerator(trainer["accelerator"])
    pattern = DEVICES_OF_CPU if trainer["accelerator"] == "cpu" else DEVICES
    if not re.fullmatch(pattern, str(trainer["devices"])):
        raise ValueError(
            "--trainer.devices must be the number of devices, auto, or for GPUs also their indices such as [0, 1], or "
            f"-1 for all; got {trainer['devices']}"
        )
    try:
        Timer(trainer["max_time"])
    except (MisconfigurationException, TypeError, OverflowError) as error:
        raise ValueError(
            f"--trainer.max_time must be DD:HH:MM:SS such as 00:01:30:00, got {trainer['max_time']}"
        ) from error


def check_accelerator(name: object) -> None:
    """Raise ValueError if this machine lacks an accelerator."""
    kinds = ("cuda", "mps") if name == "gpu" else (name,)
    found = [AcceleratorRegistry[kind]["accelerator"] for kind in kinds if kind in AcceleratorRegistry]
    if found and not any(accelerator.is_available() for accelerator in found):
        raise ValueError(
            f"PyTorch finds no {name} on this machine: use --trainer.accelerator cpu, or auto for the best one"
        )


def check_nulls(parser: ArgumentParser, config: Namespace, group: str = "") -> None:
    """Raise UsageError if an option that must have a value is null, which jsonargparse does not check.

    Args:
        parser: Parser of the options.
        config: Values of the options.
        group: Prefix of the options, such as `model.`.
    """
    for action in parser._actions:
        name, kind, value = action.dest, getattr(action, "_typehint", Any), config.get(action.dest)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Namespace) and isinstance(item.get("init_args"), Namespace):
                check_nulls(_class_parser(item.class_path), item.init_args, f"{group}{name}.")
        if name in config and value is None and action.default is not None and not _takes_null(kind):
            raise UsageError(f"{group}{name}: null is not {_describe(kind)}")


def _describe(kind: Any) -> str:
    """Return a type in words, such as "int or auto"."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_describe, get_args(kind)))
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return " or ".join(map(str, choices)) or str(getattr(kind, "__name__", kind))


def _class_parser(class_path: str) -> ArgumentParser:
    """Return a parser of the arguments of a class; without arguments if `class_path` is a function."""
    parser, found = ArgumentParser(exit_on_error=False), import_object(class_path)
    if isinstance(found, type):
        parser.add_class_arguments(found, fail_untyped=False)
    return parser


def _takes_null(kind: Any) -> bool:
    return kind in (Any, NoneType) or (get_origin(kind) in (Union, UnionType) and any(map(_takes_null, get_args(kind))))


def check_devices(trainer: Trainer) -> None:
    """Raise ValueError if training would start far more processes than the CPU has cores."""
    limit = max(MAX_CPU_PROCESSES, os.cpu_count() or 1)
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > limit:
        raise ValueError(f"--trainer.devices must be at most {limit} on this CPU, got {trainer.num_devices}")


def check_tasks(trainer: Trainer) -> None:
    """Raise ValueError if not all tasks of a Slurm job would train together."""
    if (launch := find_launch()).launcher != "srun":
        return
    tasks, nodes = launch.processes, int(os.environ.get("SLURM_NNODES", "1"))
    if tasks != trainer.world_size:
        options = f"--trainer.devices {tasks // nodes}" + f" --trainer.num_nodes {nodes}" * (nodes > 1)
        raise ValueError(f"this job has {tasks} tasks, but {trainer.world_size} would train: set {options}")


def draw_seed(nodes: int = 1) -> int:
    """Draw a random seed, the same in all processes of a distributed run.

    Args:
        nodes: Number of machines that train together.

    Raises:
        UsageError: In all processes, if the launcher does not share the seed; if only one failed, the rest would hang.
    """
    if getattr(rank_zero_only, "rank", 0) == 0 and find_launch().processes == nodes == 1:
        return random.SystemRandom().randrange(2**32)
    if "PL_GLOBAL_SEED" not in os.environ:
        raise UsageError("--seed_everything true would draw a different seed in each process: set a number")
    return int(os.environ["PL_GLOBAL_SEED"])  # set by the parent process


def check_seed(seed: int) -> None:
    """Raise UsageError unless both NumPy and torch accept a seed."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed_everything must be from 0 to {2**32 - 1}, got {seed}")


def apply_barebones(trainer: MutableMapping[str, Any]) -> None:
    """Replace `--trainer.barebones true` with options that train and test without files, logs or a progress bar."""
    for name, value in BAREBONES.items():
        trainer[name] = value
