"""`benchmark.py gpu`: what mixed precision, memory formats, compilation, data on the device and strategies gain there.

Each variant is a `kindling fit` in a process of its own; the variants take turns.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from typing_extensions import override

SCRIPTS = Path(__file__).resolve().parent
CONFIGS = SCRIPTS.parent / "configs"
TRAINING_IMAGES = 60_000
EPOCHS = 3  # of each variant; the first one, which compiles and warms up, is not counted
GOAL = 0.99
FAST, BF16 = ["--config", f"{CONFIGS}/mnist_cnn_fast.yaml"], ["--config", f"{CONFIGS}/with/bf16.yaml"]
CNN = ["--config", f"{CONFIGS}/mnist_cnn.yaml", "--trainer.max_epochs", str(EPOCHS), "--test_after_fit", "false"]
VARIANTS = {
    "float32": [],
    "bf16-mixed": BF16,
    "16-mixed": ["--trainer.precision", "16-mixed"],
    "bf16-mixed, channels first": [*BF16, "--trainer.callbacks+=benchmark_gpu.ChannelsFirst"],
    "bf16-mixed, compiled": [*BF16, "--model.compile", "true"],
    "bf16-mixed, pinned copies from 2 workers": [*BF16, "--data.num_workers", "2"],
    "bf16-mixed, DDP on one device": [*BF16, "--trainer.strategy", "ddp"],
    "bf16-mixed, FSDP on one device": [*BF16, "--config", f"{CONFIGS}/with/fsdp.yaml"],
}
ONLY_CUDA = ("16-mixed", "bf16-mixed, FSDP on one device")


class EpochTimes(Callback):
    """Prints the seconds of each training epoch and the peak memory of the device as a line of JSON."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.since = 0.0

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = _now(pl_module.device)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(_now(pl_module.device) - self.since)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        megabytes = torch.cuda.max_memory_allocated() / 1e6 if pl_module.device.type == "cuda" else 0.0
        figures = {"seconds": self.seconds, "steps": trainer.num_training_batches, "megabytes": megabytes}
        print("\nepochs", json.dumps(figures), flush=True)


class ChannelsFirst(Callback):
    """Converts the network from channels last to channels first."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.to(memory_format=torch.contiguous_format)


def _now(device: torch.device) -> float:
    """Return the time at which the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fit(options: list[str], accelerator: str, data_dir: Path, most: int) -> tuple[dict[str, Any], float, str]:
    """Run `kindling fit` on one device.

    Returns:
        What `EpochTimes` prints, the seconds of the whole process, and its output.
    """
    device = ["--trainer.accelerator", accelerator, "--trainer.devices", "1"]
    data = ["--data.data_dir", str(data_dir), "--data.val_split", str(max(1000, TRAINING_IMAGES - most))]
    callbacks = ["--trainer.callbacks+=benchmark_gpu.EpochTimes"]
    command = [sys.executable, "-m", "kindling", "fit", *options, *device, *data, *callbacks]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "PYTHONUTF8": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found = re.search(r"^epochs (.+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return json.loads(found[1]), wall, done.stdout


def gpu(data_dir: Path, rounds: int, most: int, accelerator: str) -> dict[str, Any]:
    """Measure steps of `mnist_cnn` in all variants, and the seconds to 99% on MNIST.

    Raises:
        SystemExit: If there is no GPU.
    """
    if accelerator != "cpu" and not torch.cuda.is_available():
        raise SystemExit("benchmark gpu needs a CUDA GPU, and torch finds none; --accelerator cpu rehearses it")
    variants = {name: value for name, value in VARIANTS.items() if accelerator != "cpu" or name not in ONLY_CUDA}
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    goal: list[dict[str, float]] = []
    for seed in range(rounds):
        for name, options in variants.items():
            found, _, _ = fit([*CNN, *options], accelerator, data_dir, most)
            steps[name].append(found)
            print(f"round {seed + 1}: {name}", flush=True)
        found, wall, output = fit([*FAST, *BF16, "--seed_everything", str(seed)], accelerator, data_dir, most)
        accuracy = re.search(r"test/accuracy[ │]+([\d.]+)", output)
        assert accuracy
        goal.append({"command": wall, "training": sum(found["seconds"]), "accuracy": float(accuracy[1])})
    _show(steps, goal)
    device = torch.cuda.get_device_name() if accelerator != "cpu" else "CPU"
    return {"device": device, "steps": steps, "seconds to 99%": goal}


def _show(steps: dict[str, list[dict[str, Any]]], goal: list[dict[str, float]]) -> None:
    table = Table(title=f"mnist_cnn on one device, {len(goal)} rounds: median of the epochs after the first")
    for column in ("", "ms per step", "ratio to float32", "peak memory, MB"):
        table.add_column(column)
    first = 0.0
    for name, found in steps.items():
        epochs = [1000 * seconds / one["steps"] for one in found for seconds in one["seconds"][1:]]
        step = statistics.median(epochs)
        first = first or step
        memory = statistics.median(one["megabytes"] for one in found)
        table.add_row(
            name, f"{step:.2f} ({min(epochs):.2f} to {max(epochs):.2f})", f"{step / first:.2f}", f"{memory:.0f}"
        )
    Console(width=130).print(table)
    reached = sum(one["accuracy"] >= GOAL for one in goal)
    command, training = (statistics.median(one[name] for one in goal) for name in ("command", "training"))
    print(
        f"{reached} of {len(goal)} runs of mnist_cnn_fast with bf16 reached {GOAL:.0%} on the test split: "
        f"{command:.2f} s for the whole command, {training:.2f} s for training (medians)"
    )
