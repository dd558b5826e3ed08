"""Training on shards against training in memory and torchvision's ImageFolder; `benchmark.py stream` prints it."""

import statistics
import tempfile
import time
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
from kindling.cli import main as kindling
from kindling.utils.console import silence_libraries

SIZE = 96  # pixels that the network gets
IN_MEMORY, FILES, PIXELS = "in memory", "shards of JPEG files", f"shards of {SIZE} x {SIZE} pixels"
FOLDER = "ImageFolder, DataLoader with 2 workers"
RECIPE = {
    "model": {
        "class_path": "CNNClassifier",
        "init_args": {
            "channels": [16, 32, 64],
            "label_smoothing": 0.0,
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.001}},
        },
    },
    "data": {"class_path": "ImageFolderDataModule", "init_args": {"batch_size": 64}},
}


class EpochTimes(Callback):
    """Notes the seconds of the training batches of each epoch."""

    seconds: ClassVar[list[float]] = []
    since = 0.0

    @override
    def on_train_epoch_start(self, *arguments: Any) -> None:
        self.since = time.perf_counter()

    @override
    def on_train_epoch_end(self, *arguments: Any) -> None:
        self.seconds.append(time.perf_counter() - self.since)


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


def seconds_of_fit(epochs: int, *options: object) -> float:
    """Median seconds of an epoch of `kindling fit`, from the second on."""
    EpochTimes.seconds.clear()
    few = ["--trainer.limit_val_batches", "1", "--test_after_fit", "false", "--trainer.accelerator", "cpu"]
    watched = ["--trainer.callbacks", f"{EpochTimes.__module__}.{EpochTimes.__name__}"]
    words = ["fit", "--config", "recipe.yaml", "--trainer.max_epochs", epochs, *few, *watched, *options]
    assert kindling([str(word) for word in words]) == 0
    return statistics.median(EpochTimes.seconds[1:])


def stream(rounds: int, epochs: int, number: int) -> dict[str, dict[Any, list[float]]]:
    """Photographs per second, in turns: in memory, from shards and from a folder."""
    silence_libraries()
    speeds: dict[Any, list[float]] = {name: [] for name in (IN_MEMORY, FILES, PIXELS, FOLDER)}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_photographs(Path("photos"), number)
        trained = len([*Path("photos/train").rglob("*.jpg")])
        Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        for options in (["--out", "files"], ["--out", "pixels", "--size", str(SIZE)]):
            assert kindling(["prepare", "photos", "--shard_mb", "8", "--data.image_size", str(SIZE), *options]) == 0
        streaming = ("--data", "StreamingDataModule", "--data.num_workers")
        for _ in range(rounds):
            seconds = {
                IN_MEMORY: seconds_of_fit(epochs, "--data.data_dir", "photos", "--data.image_size", SIZE),
                FILES: seconds_of_fit(epochs, *streaming, 2, "--data.path", "files"),
                PIXELS: seconds_of_fit(epochs, *streaming, 0, "--data.path", "pixels"),
                FOLDER: statistics.median(
                    folder_loop.epoch_times(Path("photos/train"), Path("recipe.yaml"), epochs, bf16=False, size=SIZE)[
                        1:
                    ]
                ),
            }
            for name, value in seconds.items():
                speeds[name].append(trained / value)
    return {f"photographs of 500 x 375 pixels per second, {trained:,} in an epoch": speeds}
