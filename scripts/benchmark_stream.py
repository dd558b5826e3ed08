"""Training on shards against training in memory and torchvision's ImageFolder; `benchmark.py stream` prints it."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from lightning.pytorch import Callback
from PIL import Image
from sklearn.datasets import load_sample_images
from typing_extensions import override

import folder_loop
from kindling import BaseDataModule, ImageFolderDataModule, StreamingDataModule
from kindling.cli import main as kindling
from kindling.utils.console import silence_libraries

SIZE = 96  # pixels that the network gets
IN_MEMORY, FILES, PIXELS = "in memory", "shards of JPEG files", f"shards of {SIZE} x {SIZE} pixels"
FIRST = "shards of JPEG files, first epoch"
FOLDER = "ImageFolder, DataLoader with 2 workers"
RECIPE = {
    "model": {
        "class_path": "CNNClassifier",
        "init_args": {
            "channels": [8, 16],
            "label_smoothing": 0.0,
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.001}},
        },
    },
    "data": {"class_path": "ImageFolderDataModule", "init_args": {"batch_size": 64}},
}


class EpochTimes(Callback):
    """Notes the seconds of the training batches of each epoch, and when it ended."""

    epochs: ClassVar[list[float]] = []
    ends: ClassVar[list[float]] = []
    since = 0.0

    @override
    def on_train_epoch_start(self, *arguments: Any) -> None:
        self.since = time.perf_counter()

    @override
    def on_train_epoch_end(self, *arguments: Any) -> None:
        self.ends.append(time.perf_counter())
        self.epochs.append(self.ends[-1] - self.since)


def write_photographs(root: Path, number: int) -> None:
    """Writes crops of scikit-learn's two photographs as `train/<class>/*.jpg` of 500 x 375 pixels, about 60 KB each."""
    random = np.random.default_rng(0)
    for label, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        photograph = Image.fromarray(pixels)
        for index in range(number // 2):
            scale = random.uniform(0.5, 1)
            width, height = int(560 * scale), int(420 * scale)
            left, top = int(random.integers(0, 640 - width)), int(random.integers(0, 427 - height))
            split = {0: "val", 1: "test"}.get(index, "train")
            path = root / split / label / f"{index:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            box = (left, top, left + width, top + height)
            photograph.resize((500, 375), Image.Resampling.BICUBIC, box).save(path, quality=90)


def seconds_of_fit(epochs: int, *options: object) -> tuple[float, float]:
    """Seconds of the first epoch of `kindling fit`, and the median of the others."""
    EpochTimes.epochs.clear()
    few = ["--trainer.limit_val_batches", "1", "--test_after_fit", "false", "--trainer.accelerator", "cpu"]
    watched = ["--trainer.callbacks", f"{EpochTimes.__module__}.{EpochTimes.__name__}"]
    words = ["fit", "--config", "recipe.yaml", "--trainer.max_epochs", epochs, *few, *watched, *options]
    assert kindling([str(word) for word in words]) == 0
    return EpochTimes.epochs[0], statistics.median(EpochTimes.epochs[1:])


def seconds_of_loading(loader: Iterable[Any], epochs: int) -> tuple[float, float]:
    """Seconds to read all batches once, and the median of further times."""
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds.append(time.perf_counter() - start)
    return seconds[0], statistics.median(seconds[1:])


def training(epochs: int) -> dict[str, float]:
    """Seconds of a training epoch of a small CNN."""
    streaming = ("--data", "StreamingDataModule", "--data.num_workers")
    theirs = folder_loop.epoch_times(Path("photos/train"), Path("recipe.yaml"), epochs, bf16=False, size=SIZE)
    in_memory = seconds_of_fit(epochs, "--data.data_dir", "photos", "--data.image_size", SIZE)
    first, files = seconds_of_fit(epochs, *streaming, 2, "--data.path", "files")
    pixels = seconds_of_fit(epochs, *streaming, 0, "--data.path", "pixels")
    return {
        IN_MEMORY: in_memory[1],
        FIRST: first,
        FILES: files,
        PIXELS: pixels[1],
        FOLDER: statistics.median(theirs[1:]),
    }


def loading(epochs: int) -> dict[str, float]:
    """Seconds to read the batches of an epoch."""
    sources: dict[str, BaseDataModule] = {
        IN_MEMORY: ImageFolderDataModule("photos", image_size=SIZE),
        FILES: StreamingDataModule("files", num_workers=2),
        PIXELS: StreamingDataModule("pixels", num_workers=0),
    }
    for data in sources.values():
        data.setup("fit")
    loaders: dict[str, Iterable[Any]] = {name: data.train_dataloader() for name, data in sources.items()}
    loaders[FOLDER] = folder_loop.make_loader(Path("photos/train"), 64, workers=2, size=SIZE)
    found = {name: seconds_of_loading(loader, epochs) for name, loader in loaders.items()}
    return {name: seconds[1] for name, seconds in found.items()} | {FIRST: found[FILES][0]}


def stream(rounds: int, epochs: int, number: int) -> dict[str, dict[Any, list[float]]]:
    """Photographs per second, in turns: in memory, from shards and from a folder."""
    silence_libraries()
    found: dict[str, dict[Any, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ["XDG_CACHE_HOME"] = str(Path("cache").absolute())  # for decoded images
        write_photographs(Path("photos"), number)
        trained = len([*Path("photos/train").rglob("*.jpg")])
        Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        for options in (["--out", "files"], ["--out", "pixels", "--size", str(SIZE)]):
            assert kindling(["prepare", "photos", "--shard_mb", "8", "--data.image_size", str(SIZE), *options]) == 0
        for _ in range(rounds):
            for measure in (training, loading):
                shutil.rmtree("cache", ignore_errors=True)
                title = f"{measure.__name__} {trained:,} photographs of 500 x 375 pixels: photographs per second"
                for name, seconds in measure(epochs).items():
                    found.setdefault(title, {}).setdefault(name, []).append(trained / seconds)
    return found
