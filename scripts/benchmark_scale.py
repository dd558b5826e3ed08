"""`benchmark.py scale`: how time, memory and files grow with classes, samples, parameters and processes.

Each command runs as a process of its own with one thread; its peak memory is that of the process.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from kindling import ClassificationDataModule, MLPClassifier
from kindling.data.datamodule import Batch, Split

SCRIPTS = Path(__file__).resolve().parent
PROGRAM = str(Path(sys.executable).with_name("kindling"))
CLASSES = (10, 100, 1_000, 2_000, 10_000, 100_000)
WIDTHS = (950, 3_100, 7_000)  # of two hidden layers: 1, 10 and 50 million parameters
ROWS = (10_000, 100_000, 500_000)
IMAGES = (1_000, 10_000)
PROCESSES = (1, 2, 4)
FEATURES = 64
FILES = ("checkpoints/best.ckpt", "predictions.csv", "report.html", "config.yaml", "train", "val", "test")
RUN = Path("runs/scale/version_0")
Row = dict[str, Any]


class PrototypeDataModule(ClassificationDataModule):
    """Samples around a random point of each class, which a linear model can tell apart.

    Args:
        num_classes: Number of classes.
        num_train: Training and validation samples.
        num_test: Test samples.
        **loading: See `BaseDataModule`.
    """

    def __init__(self, num_classes: int, num_train: int = 20_000, num_test: int = 8_000, **loading: Any) -> None:
        super().__init__(**loading)
        self.num_classes = num_classes
        self.class_names = tuple(f"class {label}" for label in range(num_classes))
        self.input_shape = (FEATURES,)
        self.sizes: dict[Split, int] = {"train": num_train, "test": num_test}

    @override
    def load(self, split: Split) -> Batch:
        random = torch.Generator().manual_seed(0)
        prototypes = torch.randn(self.num_classes, FEATURES, generator=random)
        random.manual_seed(1 + (split == "test"))
        labels = torch.arange(self.sizes[split]) % self.num_classes
        return prototypes[labels] + 0.5 * torch.randn(len(labels), FEATURES, generator=random), labels


class Steps(Callback):
    """Prints the median milliseconds of a training step, and the seconds from the start of the process to the first."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    @override
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if not self.moments and trainer.is_global_zero:
            print("first step", time.time() - psutil.Process().create_time(), flush=True)
        self.moments.append(time.perf_counter())

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print("step", 1000 * statistics.median(np.diff(self.moments[10:])), flush=True)


def run(folder: str, *options: object, program: str = PROGRAM) -> tuple[Row, list[str]]:
    """Run a command in a folder with one thread; return its seconds and peak memory, and the lines that it prints."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    command, start = [program, *map(str, options)], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        assert process.stdout
        lines = [*process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return {"seconds": time.perf_counter() - start, "peak MB": usage.ru_maxrss * unit / 1e6}, lines


def fit(*options: object) -> tuple[object, ...]:
    """Return the options of a short `kindling fit` on the CPU."""
    return ("fit", *options, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1, "--run_name", "scale")


def megabytes(path: Path) -> float:
    """Return the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def classes(numbers: tuple[int, ...] = CLASSES) -> Iterator[Row]:
    """Yield the cost of each command and the size of each file by the number of classes."""
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            data = ("--data", "benchmark_scale.PrototypeDataModule", "--data.num_classes", number)
            sizes = ("--data.eval_batch_size", 64)
            model = ("--model", "MLPClassifier", "--model.hidden", "[64]", "--test_after_fit", "false")
            commands: dict[str, tuple[object, ...]] = {"fit": fit(*model, *data, *sizes)}
            commands |= {name: (name, "--ckpt_path", RUN) for name in ("validate", "test", "predict")}
            commands["export"] = ("export", "--ckpt_path", RUN, "--format", "torch_export")
            row: Row = {"classes": number}
            for name, options in commands.items():
                measured, _ = run(folder, *options)
                row |= {f"{name}: {unit}": value for unit, value in measured.items()}
            row |= serve(folder)
            run_folder = Path(folder, RUN)
            for name in FILES:
                row[f"{name}, MB"] = megabytes(run_folder / name)
            yield row


def serve(folder: str) -> Row:
    """Return the seconds until `kindling serve` answers, the milliseconds of a request, and the bytes of an answer."""
    command, start = [PROGRAM, "serve", "--ckpt_path", str(RUN), "--port", "18090"], time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            body = json.dumps({"inputs": [[0.0] * FEATURES]}).encode()
            request = Request("http://127.0.0.1:18090/predict", body, {"Content-Type": "application/json"})
            answer = b""
            while not answer and process.poll() is None:
                with suppress(OSError), urlopen(request) as response:
                    answer = response.read()
                time.sleep(0.05)
            started, times = time.perf_counter() - start, []
            for _ in range(50):
                since = time.perf_counter()
                with urlopen(request) as response:
                    response.read()
                times.append(1000 * (time.perf_counter() - since))
            memory = psutil.Process(process.pid).memory_info().rss / 1e6
        finally:
            process.terminate()
    return {
        "serve: seconds to start": started,
        "serve: ms of a request": statistics.median(times),
        "serve: bytes of an answer": len(answer),
        "serve: MB": memory,
    }


def read(folder: str, number: int, create: str) -> Row:
    """Return the cost of reading samples with a data module, given the Python that creates it."""
    code = f"import time, kindling; data = kindling.{create}; start = time.time(); data.setup('fit'); "
    code += "inputs = data.train.inputs; print(time.time() - start, inputs.nbytes / len(inputs))"
    measured, lines = run(folder, "-c", code, program=sys.executable)
    seconds, size = map(float, lines[-1].split())
    return {
        "samples": number,
        "on disk, MB": megabytes(Path(folder)),
        "read and encode, s": seconds,
        "ms per 1,000": 1e6 * seconds / number,
        "bytes per input in memory": size,
        "peak MB of the process": measured["peak MB"],
    }


def rows() -> Iterator[Row]:
    """Yield the cost of tables with ten columns of numbers and two of categories."""
    random = np.random.default_rng(0)
    for number in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            frame = pd.DataFrame({f"x{column}": random.normal(size=number).round(4) for column in range(10)})
            frame["city"] = random.choice([f"city {place}" for place in range(20)], number)
            frame["plan"] = random.choice(["basic", "gold", "team"], number)
            frame["y"] = np.where(frame["x0"] + frame["x1"] + (frame["plan"] == "gold") > 0, "yes", "no")
            frame.to_csv(Path(folder, "rows.csv"), index=False)
            yield read(folder, number, "TableDataModule('rows.csv', 'y')")


def images() -> Iterator[Row]:
    """Yield the cost of folders of PNG files of 64 x 64 pixels in color."""
    random = np.random.default_rng(0)
    for number in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            for place in range(number):
                path = Path(folder, "photos", str(place % 10), f"{place}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(256, size=(8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
                Image.fromarray(pixels).save(path)
            yield read(folder, number, "ImageFolderDataModule('photos')")


def parameters() -> Iterator[Row]:
    """Yield the size of a checkpoint with Adam's states and the time to write it, by the number of parameters."""
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            data = ("--data", "benchmark_scale.PrototypeDataModule", "--data.num_classes", 10, "--data.num_train", 200)
            model = ("--model", "MLPClassifier", "--model.hidden", f"[{width},{width}]", "--test_after_fit", "false")
            callback = ("--trainer.callbacks", "benchmark_scale.SaveTimes", "--trainer.logger", "false")
            measured, lines = run(folder, *fit(*model, *data, *callback))
            number, seconds = next(map(float, line.split()[1:]) for line in lines if line.startswith("saved"))
            size = megabytes(Path(folder, RUN, "checkpoints/last.ckpt"))
            yield {
                "parameters": f"{number:,.0f}",
                "checkpoint, MB": size,
                "bytes per parameter": 1e6 * size / number,
                "save, s": seconds,
                "fit, s": measured["seconds"],
                "fit, peak MB": measured["peak MB"],
            }


class SaveTimes(Callback):
    """Prints the number of parameters, and the median seconds that it takes to save a checkpoint."""

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MLPClassifier)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            trainer.save_checkpoint("copy.ckpt")
            times.append(time.perf_counter() - start)
        number = sum(parameter.numel() for parameter in pl_module.parameters())
        print("saved", number, statistics.median(times), flush=True)


def processes() -> Iterator[Row]:
    """Yield the time to the first step and that of a step by the number of processes, which share a global batch."""
    for number in PROCESSES:
        with tempfile.TemporaryDirectory() as folder:
            data = ("--data", "benchmark_scale.PrototypeDataModule", "--data.num_classes", 10)
            model = ("--model", "MLPClassifier", "--model.hidden", "[512,512]", "--test_after_fit", "false")
            several = ("--trainer.devices", number, "--trainer.strategy", "auto" if number == 1 else "ddp")
            batch = ("--data.batch_size", 256, "--trainer.callbacks", "benchmark_scale.Steps")
            measured, lines = run(folder, *fit(*model, *data, *several, *batch))
            found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "step " in line}
            yield {
                "processes": number,
                "seconds to the first step": found["first step"],
                "ms of a step": found["step"],
                "fit, s": measured["seconds"],
                "MB of the first process": measured["peak MB"],
            }


def scale(wanted: list[str]) -> dict[str, list[Row]]:
    """Measure and print a table for each of `wanted`, by default all."""
    parts = {"classes": classes, "rows": rows, "images": images, "parameters": parameters, "processes": processes}
    found = {}
    for name in wanted or parts:
        found[name] = [*parts[name]()]
        table = Table(title=name)
        for row in found[name][:1]:
            table.add_column("")
            for one in found[name]:
                table.add_column(str(next(iter(one.values()))), justify="right")
            for key in [*row][1:]:
                table.add_row(
                    key, *(f"{one[key]:,.3g}" if one[key] < 100 else f"{one[key]:,.0f}" for one in found[name])
                )
        Console(width=130).print(table)
    return found
