"""Check the options of the Trainer."""

import os
import re
from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import StrategyRegistry

from kindling.utils.launch import find_launch
from kindling.utils.text import join_names, shorten, suggest

MAX_CPU_PROCESSES = 8  # always allowed, to try distributed training on few cores
# Minimum values; with smaller ones, Lightning would divide by zero, never stop, or not name the option.
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
        timer = Timer(trainer["max_time"])
    except (MisconfigurationException, TypeError, OverflowError) as error:
        raise ValueError(
            f"--trainer.max_time must be DD:HH:MM:SS such as 00:01:30:00, got {trainer['max_time']}"
        ) from error
    if timer.time_remaining() == 0:
        raise ValueError("--trainer.max_time 0 trains nothing: set a longer time")


def check_accelerator(name: object) -> None:
    """Raise ValueError if this machine lacks an accelerator."""
    kinds = ("cuda", "mps") if name == "gpu" else (name,)
    found = [AcceleratorRegistry[kind]["accelerator"] for kind in kinds if kind in AcceleratorRegistry]
    if found and not any(accelerator.is_available() for accelerator in found):
        raise ValueError(
            f"PyTorch finds no {name} on this machine: use --trainer.accelerator cpu, or auto for the best one"
        )


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
