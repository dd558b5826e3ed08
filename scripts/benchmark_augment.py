"""Gain of each augmentation on small sets of digits and photographs; `benchmark.py augment` prints it."""

import json
import statistics
import tempfile
from contextlib import chdir
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmark_transfer import write_tiles
from kindling import MNISTDataModule
from kindling.cli import main as kindling
from kindling.utils.console import silence_libraries

TRAINING, TEST = 1600, 5000  # digits; a tenth of the first is for validation
DIGITS, PHOTOGRAPHS = "digits", "photographs"
TILES = 20  # of each picture for training, and as many for the test: about 60% of the tiles that there are
NONE = "no augmentation"
RECIPE = "the recipe: moving and flip auto"
STILL = ["--data.degrees", "0", "--data.shift", "0", "--data.scale", "0"]
METHODS = {
    NONE: [*STILL, "--data.flip", "false"],
    "moving: degrees 10, shift 0.1, scale 0.1": ["--data.flip", "false"],
    "flip auto": STILL,
    "flip auto and color 0.2": [*STILL, "--data.color", "0.2"],
    RECIPE: [],
    "the recipe, and color 0.2": ["--data.color", "0.2"],
    "the recipe, and erasing 0.25": ["--data.erasing", "0.25"],
    "the recipe, and auto_augment ta_wide": ["--data.auto_augment", "ta_wide"],
    "the recipe, and auto_augment ra": ["--data.auto_augment", "ra"],
    "the recipe, and mixup 0.2": ["--data.mixup", "0.2"],
    "the recipe, and cutmix 1": ["--data.cutmix", "1"],
    "the recipe, but flip true": ["--data.flip", "true"],
    "the recipe, but crop 0.5 and ratio 1.33 for shift and scale": [
        *("--data.shift", "0", "--data.scale", "0", "--data.crop", "0.5", "--data.ratio", "1.33")
    ],
}


def write_digits(root: Path, seed: int, data_dir: Path) -> None:
    """Write `train/<digit>/*.png` and `test/<digit>/*.png`: training images of MNIST that the seed chooses."""
    images, labels = MNISTDataModule(data_dir=str(data_dir)).load("train")
    chosen = np.random.default_rng(seed).permutation(len(images))[: TRAINING + TEST].tolist()
    for place, index in enumerate(chosen):
        folder = root / ("train" if place < TRAINING else "test") / str(int(labels[index]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index, 0].numpy()).save(folder / f"{index}.png")


def accuracy(seed: int, *options: str) -> float:
    """Test accuracy of `kindling fit` with the recipe `images_cnn` on the folder `photos`."""
    words = ["fit", "--config", "images_cnn", "--data.data_dir", "photos", "--run_name", "run"]
    assert kindling([*words, "--seed_everything", str(seed), "--trainer.accelerator", "cpu", *options]) == 0
    newest = max(Path("runs/run").iterdir(), key=lambda run: run.stat().st_mtime)
    return float(json.loads((newest / "test_metrics.json").read_text())["test/accuracy"])


def augment(seeds: int, data_dir: Path, out: Path) -> dict[str, dict[str, list[float]]]:
    """Test accuracies of each set, augmentation and seed, which also chooses the images; continues where it stopped."""
    silence_libraries()
    done = out / "augment.json"
    found: dict[str, dict[str, list[float]]] = json.loads(done.read_text()) if done.exists() else {}
    found = {kind: found.get(kind) or {name: [] for name in METHODS} for kind in (DIGITS, PHOTOGRAPHS)}
    for kind, methods in found.items():
        for seed in range(min(map(len, methods.values())), seeds):
            with tempfile.TemporaryDirectory() as folder, chdir(folder):
                if kind == DIGITS:
                    write_digits(Path("photos"), seed, data_dir)
                else:
                    write_tiles(Path("photos"), seed, shots=TILES, tests=TILES)
                for name, options in METHODS.items():
                    if len(methods[name]) == seed:
                        methods[name].append(accuracy(seed, *options))
                        print(f"{kind}, seed {seed}: {name}, {methods[name][-1]:.2%}", flush=True)
                        done.write_text(json.dumps(found) + "\n")
        Console(width=130).print(table(kind, methods))
    return found


def table(kind: str, methods: dict[str, list[float]]) -> Table:
    """Accuracies, and gains over no augmentation and over the recipe: differences of runs with the same seed."""
    shown = Table(title=kind)
    for column in ("", "seeds", "test accuracy, %", "gain in points", "over the recipe"):
        shown.add_column(column)
    for name, values in methods.items():
        gains = [mean_and_error(values, methods[base]) for base in (NONE, RECIPE)]
        shown.add_row(name, str(len(values)), f"{100 * statistics.mean(values):.2f}", *gains)
    return shown


def mean_and_error(values: list[float], base: list[float]) -> str:
    """Mean difference from `base` in points ± its standard error; of the seeds that both have."""
    gains = [100 * (new - old) for new, old in zip(values, base, strict=False)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    return f"{statistics.mean(gains):+.2f} ± {error:.2f}"
