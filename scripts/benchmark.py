"""Measures the costs and gains of Kindling side by side on this machine.

    python scripts/benchmark.py compare     the tutorial's loop, a bare loop, kindling fit: accuracy against seconds
    python scripts/benchmark.py steps       a step against a bare one, bf16 against fp32, start-up, growth with the data
    python scripts/benchmark.py fastest     kindling fit to 99% on full MNIST, several seeds: docs/seconds-to-99.md
    python scripts/benchmark.py ablation    the tutorial's table: base CNN, + batch norm, + augmentation, + bf16
    python scripts/benchmark.py images      a folder of PNG digits: torchvision's ImageFolder, kindling fit
    python scripts/benchmark.py scale       cost of 10 to 100,000 classes, of rows, parameters and processes
    python scripts/benchmark.py stream      photographs as shards, in memory and through torchvision's ImageFolder
    python scripts/benchmark.py photos      photographs of 12 megapixels: torchvision, timm, fastai, kindling fit
    python scripts/benchmark.py transfer    few photographs: ImageNet weights against the same network from scratch
    python scripts/benchmark.py augment     small sets of digits and photographs: what each augmentation gains
    python scripts/benchmark.py labels      swapped labels of digits and textures: how many cross-validation finds
    python scripts/benchmark.py tables      public tables: kindling fit, gradient boosting, linear models, RealMLP-TD-S
    python scripts/benchmark.py gpu         one GPU: precision, memory format, compilation, copies, strategies, 99%

Each prints tables and writes them as JSON; `compare` and `transfer` draw a plot too. All but `scale`, `stream`,
`photos`, `transfer` and `tables` need the full MNIST in `--data_dir`, and Linux or macOS. `photos` keeps 3.5 GB of
photographs there, measures timm and fastai if they are installed, and adds its rounds to those in `--out`. `tables`,
`transfer` and `augment` continue where they were stopped; `table_sets.py` lists the packages that `tables` needs.
Nothing else should run on the machine meanwhile; what is compared runs in turns, so that what slows one slows the
others.
"""

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from typing_extensions import override

import bare_loop
import folder_loop
from benchmark_gpu import gpu
from benchmark_photos import photos
from benchmark_scale import scale
from benchmark_stream import EpochTimes, stream
from benchmark_tables import tables
from kindling import CNNClassifier, MNISTDataModule
from kindling.cli import main as kindling
from kindling.utils.console import silence_libraries

SCRIPTS = Path(__file__).resolve().parent
CONFIGS = SCRIPTS.parent / "configs"
FAST, CNN, BF16 = CONFIGS / "mnist_cnn_fast.yaml", CONFIGS / "mnist_cnn.yaml", CONFIGS / "with" / "bf16.yaml"
# Colors of Okabe and Ito, told apart by color-blind readers.
LOOPS = {"tutorial's loop": "#D55E00", "bare loop": "#999999", "kindling fit": "#0072B2"}


class StepTimes(EpochTimes):
    """Notes the moment at which each training step of a `kindling fit` begins, and the seconds of each epoch."""

    moments: ClassVar[list[float]] = []

    @override
    def on_train_batch_start(self, *arguments: Any) -> None:
        if not self.moments:
            print("first step", flush=True)
        self.moments.append(time.perf_counter())


class TakingTurns(Callback):
    """After each step of a `kindling fit` takes one of a bare loop, so that what slows one slows the other."""

    bare: ClassVar[Iterator[float]]
    milliseconds: ClassVar[dict[str, list[float]]]
    since = 0.0

    @override
    def on_train_batch_end(self, *arguments: Any) -> None:
        done = time.perf_counter()
        next(self.bare)
        if self.since:
            self.milliseconds["kindling"].append(1000 * (done - self.since))
        self.since = time.perf_counter()
        self.milliseconds["bare"].append(1000 * (self.since - done))


PROGRAM = str(Path(sys.executable).with_name("kindling"))


def fit(*options: object) -> list[str]:
    """A `kindling fit` as it is typed; on the CPU, as the loops beside it."""
    return ["fit", *(str(option) for option in options), "--trainer.accelerator", "cpu"]


def run(command: list[str]) -> tuple[list[tuple[float, str]], float, float]:
    """Runs a command: its lines with the seconds at which they came, its wall clock, its peak memory in GB."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "PYTHONUTF8": "1"}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment)
        assert process.stdout
        lines = [(time.perf_counter() - start, line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return lines, time.perf_counter() - start, usage.ru_maxrss * unit / 1e9


def middle(values: list[float], form: str = ".2f") -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def compare(data_dir: Path, rounds: int, epochs: int) -> dict[str, Any]:
    """Accuracy against wall clock of three ways to train, everything from the start of the process counted."""
    options = ["--data_dir", str(data_dir), "--epochs", str(epochs), "--seed"]
    kindling_fit = fit("--config", FAST, "--config", BF16, "--trainer.max_epochs", epochs, "--data.data_dir", data_dir)
    commands: dict[str, Callable[[int], list[str]]] = {
        "tutorial's loop": lambda seed: [sys.executable, f"{SCRIPTS}/tutorial_loop.py", *options, str(seed)],
        "bare loop": lambda seed: [sys.executable, f"{SCRIPTS}/bare_loop.py", *options, str(seed)],
        "kindling fit": lambda seed: [PROGRAM, *kindling_fit, "--seed_everything", str(seed)],
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for seed in range(rounds):
        for name, command in commands.items():
            lines, _, memory = run(command(seed))
            found = ((at, re.search(r"accuracy[ │]+([\d.]+)", line)) for at, line in lines)
            curve = [(at, float(match[1])) for at, match in found if match]
            seconds, accuracy = curve[-1]  # of the test, the last thing that all of them do
            runs[name].append({"seconds": seconds, "memory_gb": memory, "curve": curve, "accuracy": accuracy})
            print(f"round {seed + 1}: {name}, {seconds:.1f} s, {accuracy:.2%}", flush=True)

    table = Table(title=f"full MNIST, {epochs} epochs, {rounds} runs each: median (range)")
    for column in ("", "wall clock, s", "times as fast", "test accuracy, %", "seconds to 99%", "peak memory, GB"):
        table.add_column(column)
    slowest = statistics.median(one["seconds"] for one in runs["tutorial's loop"])
    for name, ones in runs.items():
        walls = [one["seconds"] for one in ones]
        reached = [min((at for at, share in one["curve"] if share >= 0.99), default=float("inf")) for one in ones]
        table.add_row(
            name,
            middle(walls, ".1f"),
            f"{slowest / statistics.median(walls):.1f}",
            middle([100 * one["accuracy"] for one in ones]),
            middle(reached, ".1f"),
            middle([one["memory_gb"] for one in ones]),
        )
    Console(width=130).print(table)
    return {"epochs": epochs, "runs": runs}


def fastest(data_dir: Path, seeds: int) -> dict[str, Any]:
    """Wall clock from the start of the process to its end, and test accuracy, of the fastest recipe with each seed."""
    options = fit("--config", FAST, "--config", BF16, "--data.data_dir", data_dir)
    runs: list[dict[str, float]] = []
    for seed in range(seeds):
        lines, seconds, _ = run([PROGRAM, *options, "--seed_everything", str(seed)])
        (accuracy,) = (
            float(match[1]) for _, line in lines if (match := re.search(r"test/accuracy[ │]+([\d.]+)", line))
        )
        runs.append({"seconds": seconds, "accuracy": accuracy})
        print(f"seed {seed}: {seconds:.1f} s, {accuracy:.2%}", flush=True)
    accuracies = [100 * one["accuracy"] for one in runs]
    print(
        f"mean accuracy {statistics.mean(accuracies):.3f}%, {middle(accuracies)}; seconds",
        middle([one["seconds"] for one in runs]),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=SCRIPTS, capture_output=True, text=True)
    return {"commit": commit.stdout.strip(), "runs": runs}


def plot(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws accuracy against wall-clock seconds, a line for each run."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, ones in runs.items():
        for number, one in enumerate(ones):
            seconds, shares = zip(*one["curve"], strict=True)
            errors = [100 * (1 - share) for share in shares]
            label = None if number else name
            axes.plot(seconds, errors, "o-", ms=4, lw=1.5, color=LOOPS[name], label=label)
            axes.plot(seconds[-1], errors[-1], "*", ms=12, color=LOOPS[name])
    axes.plot([], [], "*", ms=12, color="0.4", label="test at the end")
    axes.axhline(1, color="0.6", lw=1, ls="--", zorder=1)
    # Logarithmic in the errors: from 99.0 to 99.5% is as far as from 98 to 99%.
    axes.set(xscale="log", yscale="log", xlabel="seconds since the process was started", ylabel="accuracy")
    axes.set_title(f"full MNIST on {os.cpu_count()} CPU cores: accuracy after each epoch", fontsize=11)
    axes.invert_yaxis()
    axes.set_xticks(ticks := [5, 10, 20, 50, 100, 200], labels=[str(tick) for tick in ticks])
    axes.set_yticks(errors := [0.4, 0.5, 0.7, 1, 1.5, 2], labels=[f"{100 - tick:g}%" for tick in errors])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(edgecolor="none")
    figure.savefig(path)


def fit_with(callback: type[Callback], recipe: Path, steps: int, *options: object) -> None:
    """Runs an epoch of at most `steps` of `kindling fit` in this process, watched by a callback."""
    few = ("--trainer.limit_train_batches", steps, "--trainer.limit_val_batches", 1, "--trainer.max_epochs", 1)
    watched = ("--trainer.callbacks", f"{callback.__module__}.{callback.__name__}", "--test_after_fit", "false")
    assert kindling(fit("--config", recipe, *few, *watched, *options)) == 0


def step_times(recipe: Path, steps: int, *options: object) -> list[float]:
    """Seconds of each step of `kindling fit` in this process, the first ten left out."""
    StepTimes.moments.clear()
    fit_with(StepTimes, recipe, steps, *options)
    return [after - before for before, after in itertools.pairwise(StepTimes.moments[10:])]


def step_overhead(path: Path, data_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Time of a step relative to one of a bare loop, with which it takes turns: medians of 100 steps each."""
    recipe = yaml.safe_load(path.read_text())
    found: dict[str, list[float]] = {"Lightning's Trainer alone": [], "kindling fit": []}
    for seed in range(rounds):
        for name, ratios in found.items():
            model, data = bare_loop.build(recipe, str(data_dir), seed)
            TakingTurns.bare = bare_loop.train(model, data, recipe, epochs=2)
            TakingTurns.milliseconds = {"kindling": [], "bare": []}
            next(TakingTurns.bare)
            if name == "kindling fit":
                fit_with(TakingTurns, path, 100, "--config", BF16, "--data.data_dir", data_dir)
            else:
                fit_alone(recipe, data_dir)
            medians = {loop: statistics.median(times[10:]) for loop, times in TakingTurns.milliseconds.items()}
            ratios.append(medians["kindling"] / medians["bare"])
    return found


def fit_alone(recipe: dict[str, Any], data_dir: Path) -> None:
    """Train 100 steps of a recipe with a Trainer that has no logger, checkpoints or other callbacks."""
    data = MNISTDataModule(data_dir=str(data_dir), **recipe["data"]["init_args"])
    settings = recipe["model"]["init_args"]
    optimizer = settings["optimizer"] | {"class_path": "torch.optim.AdamW"}
    schedule = {"class_path": "kindling.models.schedules.OneCycle", "init_args": {}}
    model = CNNClassifier.for_data(data, **settings | {"optimizer": optimizer, "lr_scheduler": schedule})
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    few: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 100, "limit_val_batches": 1}
    callbacks: list[Callback] = [TakingTurns()]
    Trainer(
        accelerator="cpu", precision="bf16-mixed", callbacks=callbacks, enable_model_summary=False, **quiet, **few
    ).fit(model, data)


def precisions(data_dir: Path, rounds: int, steps: int = 40) -> dict[str, list[float]]:
    """Milliseconds of a step of `mnist_cnn.yaml`, in turns in float32 and with bf16."""
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(rounds):
        for name, precision in (("fp32", "32-true"), ("bf16", "bf16-mixed")):
            times = step_times(CNN, steps, "--data.data_dir", data_dir, "--trainer.precision", precision)
            found[name].append(1000 * statistics.median(times))
    return found


def growth(data_dir: Path, rounds: int) -> dict[int, list[float]]:
    """Seconds of an epoch by the number of training samples."""
    sizes = (5000, 15000, 30000, 59000)
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            fewer = ("--data.data_dir", data_dir, "--data.val_split", 60000 - size)
            StepTimes.epochs.clear()
            fit_with(StepTimes, FAST, 10**6, "--config", BF16, *fewer)
            found[size] += StepTimes.epochs
    return found


def start_up(data_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a process: the bare imports, and `kindling fit` up to its first step."""
    found: dict[str, list[float]] = {"imports": [], "first step": []}
    few = ("--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1, "--test_after_fit", "false")
    options = fit("--config", FAST, "--config", BF16, "--data.data_dir", data_dir, *few)
    for _ in range(rounds):
        lines = run([sys.executable, "-c", "import torch, lightning, torchmetrics; print('there')"])[0]
        found["imports"].append(lines[-1][0])
        lines = run([PROGRAM, *options, "--trainer.callbacks", "benchmark.StepTimes"])[0]
        found["first step"].append(next(at for at, line in lines if line.startswith("first step")))
    return found


def steps(data_dir: Path, rounds: int) -> dict[str, Any]:
    """All that concerns single steps."""
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        found: dict[str, dict[Any, list[float]]] = {
            "time of a step of mnist_cnn_fast.yaml, relative to a bare loop": step_overhead(FAST, data_dir, rounds),
            "time of a step of mnist_cnn.yaml, relative to a bare loop": step_overhead(CNN, data_dir, rounds),
            "ms of a step of mnist_cnn.yaml by precision": precisions(data_dir, rounds),
            "seconds of an epoch by samples": growth(data_dir, rounds),
            "seconds to": start_up(data_dir, rounds),
        }
    show(found, rounds)
    return found


def show(found: dict[str, dict[Any, list[float]]], rounds: int) -> None:
    """Prints a table for each title."""
    for title, rows in found.items():
        table = Table(title=f"{title}, {rounds} runs each: median (range)")
        for column in ("", "", "ratio to the first"):
            table.add_column(column)
        first = statistics.median(next(iter(rows.values())))
        for name, values in rows.items():
            table.add_row(str(name), middle(values), f"{statistics.median(values) / first:.2f}" if first else "")
        Console(width=130).print(table)


def write_digits(root: Path, images: Tensor, labels: Tensor) -> None:
    """Writes images (N, 1, 28, 28) as `train/<class>/*.png`, the first two of each class for validation and test."""
    splits = {label: iter(("val", "test")) for label in set(labels.tolist())}
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = root / next(splits[label], "train") / str(label) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)


def folder_recipe(root: Path) -> Path:
    """Writes the recipe of the fast CNN on a folder of images beside it."""
    recipe = yaml.safe_load(FAST.read_text())
    arguments = recipe["data"]["init_args"] | {"data_dir": str(root)}
    recipe["data"] = {"class_path": "ImageFolderDataModule", "init_args": arguments}
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    return path


def folder_epochs(root: Path, epochs: int, bf16: bool) -> dict[str, float]:
    """Median seconds of the epochs of the fast CNN on a folder of images, from the second on."""
    path = folder_recipe(root)
    theirs = folder_loop.epoch_times(root / "train", path, epochs, bf16)
    StepTimes.epochs.clear()
    precision = "bf16-mixed" if bf16 else "32-true"
    fit_with(StepTimes, path, 10**6, "--trainer.max_epochs", epochs, "--trainer.precision", precision)
    times = {"ImageFolder, DataLoader with 2 workers": theirs, "kindling fit": StepTimes.epochs}
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def folders(data_dir: Path, rounds: int, epochs: int, most: int) -> dict[str, Any]:
    """Training on a folder of PNG files, in float32 and with bf16."""
    silence_libraries()
    images, labels = MNISTDataModule(data_dir=str(data_dir)).load("train")
    found: dict[str, dict[Any, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_digits(Path(folder) / "digits", images[:most], labels[:most])
        for _ in range(rounds):
            for precision in ("fp32", "bf16"):
                title = f"seconds of an epoch of {min(most, len(images)):,} PNG files in {precision}"
                rows = found.setdefault(title, {})
                for name, seconds in folder_epochs(Path(folder) / "digits", epochs, precision == "bf16").items():
                    rows.setdefault(name, []).append(seconds)
    show(found, rounds)
    return found


def ablation(data_dir: Path, seeds: int, epochs: int) -> dict[str, Any]:
    """The optimization table of the second tutorial, measured."""
    batch_norm, augmented = (
        ["--model.batch_norm", "true"],
        ["--data.degrees", "8", "--data.shift", "0.06", "--data.scale", "0.08"],
    )
    bf16 = ["--trainer.precision", "bf16-mixed"]
    variants = {
        "base CNN": ["--model.batch_norm", "false"],
        "+ batch norm": batch_norm,
        "+ augmentation": [*batch_norm, *augmented],
        "+ mixed precision (bf16)": [*batch_norm, *augmented, *bf16],
    }
    recipe = ["--config", CNN, "--trainer.max_epochs", epochs, "--data.data_dir", data_dir]
    found: dict[str, dict[str, list[float]]] = {name: {"accuracy": [], "seconds": []} for name in variants}
    for seed in range(seeds):
        for name, options in variants.items():
            lines, seconds, _ = run([PROGRAM, *fit(*recipe, "--seed_everything", seed, *options)])
            accuracy = next(re.search(r"test/accuracy[ │]+([\d.]+)", line) for _, line in lines if "test/acc" in line)
            assert accuracy
            found[name]["accuracy"].append(float(accuracy[1]))
            found[name]["seconds"].append(seconds)
            print(f"seed {seed}: {name}, {seconds:.1f} s, {float(accuracy[1]):.2%}", flush=True)
    table = Table(title=f"mnist_cnn.yaml, {epochs} epochs, {seeds} seeds")
    for column in ("", "test accuracy, %: mean ± standard deviation", "wall clock, s: median (range)"):
        table.add_column(column)
    for name, values in found.items():
        percent = [100 * share for share in values["accuracy"]]
        spread = statistics.stdev(percent) if seeds > 1 else float("nan")
        table.add_row(name, f"{statistics.mean(percent):.2f} ± {spread:.2f}", middle(values["seconds"], ".1f"))
    Console(width=130).print(table)
    return found


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics")
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = "compare steps fastest ablation images scale stream photos transfer augment labels tables gpu"
    parser.add_argument("what", choices=choices.split())
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder with MNIST/raw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; for accuracies, seeds")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--most", type=int, default=60000, help="of images, stream and gpu, images to train on at most")
    parser.add_argument("--accelerator", default="gpu", help="of gpu; cpu rehearses it")
    parser.add_argument("--sets", nargs="*", default=[], help="of tables, by default those that are held out")
    parser.add_argument("--methods", nargs="*", default=[], help="of tables and labels, by default all")
    parser.add_argument("--parts", nargs="*", default=[], help="of scale, by default all")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for JSON and plot")
    options = parser.parse_args()
    out, data_dir = options.out.resolve(), options.data_dir.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.what == "compare":
        found = compare(data_dir, options.rounds, options.epochs)
        plot(found["runs"], out / "compare.png")
    elif options.what == "steps":
        found = steps(data_dir, options.rounds)
    elif options.what == "fastest":
        found = fastest(data_dir, options.rounds)
    elif options.what == "images":
        found = folders(data_dir, options.rounds, options.epochs, options.most)
    elif options.what == "scale":
        found = scale(options.parts)
    elif options.what == "stream":
        show(found := stream(options.rounds, options.epochs, min(options.most, 2000)), options.rounds)
    elif options.what == "transfer":
        from benchmark_transfer import transfer  # needs the packages with photographs and weights

        found = transfer(options.rounds, out)
    elif options.what == "augment":
        from benchmark_augment import augment  # needs the packages with photographs

        found = augment(options.rounds, data_dir, out)
    elif options.what == "labels":
        from benchmark_labels import labels  # needs the package with weights

        found = labels(options.rounds, options.methods, data_dir)
    elif options.what == "photos":
        show(found := photos(data_dir, options.rounds, options.epochs, min(options.most, 1000), out), options.rounds)
    elif options.what == "tables":
        found = tables(options.rounds, options.sets, options.methods, out)
    elif options.what == "gpu":
        found = gpu(data_dir, options.rounds, options.most, options.accelerator)
    else:
        found = ablation(data_dir, options.rounds, options.epochs)
    (out / f"{options.what}.json").write_text(json.dumps({"machine": machine(), **found}) + "\n")


if __name__ == "__main__":
    main()
