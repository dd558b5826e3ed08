"""Training on photographs of 12 megapixels with several data loaders; `benchmark.py photos` prints it.

Each loader runs in a process of its own, this script: `benchmark_photos.py NUMBER FOLDER EPOCHS`.
"""

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

SIZE, BATCH, CROP = 224, 64, 0.5  # pixels, images, smallest part of the area
WIDTH, HEIGHT = 4000, 3000
RECIPE: dict[str, Any] = {
    "model": {
        "class_path": "CNNClassifier",
        "init_args": {
            "channels": [8, 16, 32],
            "strided_stem": True,
            "label_smoothing": 0.0,
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.001}},
        },
    },
    "data": {
        "class_path": "ImageFolderDataModule",
        "init_args": {"batch_size": BATCH, "image_size": SIZE, "crop": CROP, "flip": True},
    },
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_photographs(root: Path, number: int) -> None:
    """Write `train/<class>/*.jpg`: crops of scikit-learn's two photographs, enlarged, with the noise of a sensor.

    Their files have 3.5 MB on average, as those of a phone. There are two more photographs for validation and test.
    """
    random = np.random.default_rng(0)
    noise = random.normal(0, 6, (2 * HEIGHT, WIDTH, 1)).astype(np.int16)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    boxes = []
    for _ in range(number + 4):
        scale = random.uniform(0.7, 1)
        width, height = int(560 * scale), int(420 * scale)
        left, top = int(random.integers(0, 640 - width)), int(random.integers(0, 427 - height))
        boxes.append((left, top, left + width, top + height))

    def write(index: int) -> None:
        split = "train" if index >= 4 else ("val", "test")[index // 2]
        path = root / split / ("china", "flower")[index % 2] / f"{index:05}.jpg"
        if not path.exists():
            enlarged = photographs[index % 2].resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, boxes[index])
            start = index * 37 % HEIGHT
            pixels = np.clip(np.asarray(enlarged) + noise[start : start + HEIGHT], 0, 255).astype(np.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "jpeg", quality=90)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_bytes(content.getvalue())
            path.with_suffix(".part").replace(path)

    with ThreadPoolExecutor(2) as pool:
        [*pool.map(write, range(number + 4))]


def train(loader: Any, epochs: int, started: float) -> dict[str, Any]:
    """Train in a plain loop; return the seconds of each epoch, the first one from `started` on, and its images."""
    import folder_loop

    class Counted:
        images = 0

        def __len__(self) -> int:
            return len(loader)

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.images = 0
            for images, labels in loader:
                self.images += len(images)
                yield images.as_subclass(Tensor), labels.as_subclass(Tensor)

    counted, before = Counted(), time.perf_counter() - started
    seconds = folder_loop.train(counted, 2, (3, SIZE, SIZE), Path("recipe.yaml"), epochs)
    return {"seconds": [before + seconds[0], *seconds[1:]], "images": counted.images}


def torchvision_loader(root: Path, epochs: int) -> dict[str, Any]:
    """Train with ImageFolder and DataLoader."""
    from torchvision import transforms

    import folder_loop

    started = time.perf_counter()
    crop = transforms.RandomResizedCrop(SIZE, scale=(CROP, 1), ratio=(1, 1))
    augmentation = (crop, transforms.RandomHorizontalFlip())
    return train(folder_loop.make_loader(root / "train", BATCH, 2, None, augmentation), epochs, started)


def timm_loader(root: Path, epochs: int) -> dict[str, Any]:
    """Train with the dataset and the loader of timm."""
    timm: Any = import_module("timm.data")
    started = time.perf_counter()
    loader = timm.create_loader(
        timm.create_dataset("", str(root / "train")),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,  # needs a GPU
        scale=(CROP, 1),
        ratio=(1, 1),
        color_jitter=None,
        interpolation="bilinear",
        num_workers=2,
    )
    return train(loader, epochs, started)


def fastai_loader(root: Path, epochs: int) -> dict[str, Any]:
    """Train with ImageDataLoaders of fastai."""
    fastai: Any = import_module("fastai.vision.all")
    started = time.perf_counter()
    items = [fastai.RandomResizedCrop(SIZE, min_scale=CROP, ratio=(1, 1)), fastai.FlipItem(0.5)]
    normalize = fastai.Normalize.from_stats(*IMAGENET, cuda=False)
    loaders = fastai.ImageDataLoaders.from_folder(
        root, valid="val", bs=BATCH, num_workers=2, item_tfms=items, batch_tfms=[normalize], device="cpu"
    )
    return train(loaders.train, epochs, started)


def kindling_fit(root: Path, epochs: int, *options: str) -> dict[str, Any]:
    """Train with `kindling fit`, whose options are read too."""
    from benchmark_stream import EpochTimes
    from kindling.cli import main as kindling
    from kindling.utils.console import silence_libraries

    silence_libraries()
    started = time.perf_counter()
    few = ["--trainer.limit_val_batches", "1", "--test_after_fit", "false", "--trainer.accelerator", "cpu"]
    watched = ["--trainer.callbacks", "benchmark_stream.EpochTimes", "--trainer.max_epochs", str(epochs)]
    assert kindling(["fit", "--config", "recipe.yaml", "--data.data_dir", str(root), *few, *watched, *options]) == 0
    cache = sum(path.stat().st_size for path in Path("cache").rglob("*.pixels"))
    images = len([*(root / "train").rglob("*.jpg")])
    return {"seconds": [EpochTimes.ends[0] - started, *EpochTimes.epochs[1:]], "images": images, "cache": cache}


def on_disk(root: Path, epochs: int) -> dict[str, Any]:
    """Train with `kindling fit` and images that do not fit in memory."""
    return kindling_fit(root, epochs, "--data.memory_gb", "0", "--data.cache_dir", "cache")


METHODS: dict[str, tuple[str, Callable[[Path, int], dict[str, Any]]]] = {
    "ImageFolder, DataLoader with 2 workers": ("torchvision", torchvision_loader),
    "timm, 2 workers": ("timm", timm_loader),
    "fastai, 2 workers": ("fastai", fastai_loader),
    "kindling fit, images in memory": ("kindling", kindling_fit),
    "kindling fit, images on disk": ("kindling", on_disk),
}


def run(name: str, root: Path, epochs: int) -> dict[str, Any]:
    """Return the output of a loader's process, and the peak memory in GB of this process and its workers."""
    command = [sys.executable, __file__, str([*METHODS].index(name)), str(root), str(epochs)]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        with open("output", "w+") as output:
            process, peak = subprocess.Popen(command, stdout=output), 0
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                with suppress(psutil.Error):
                    peak = max(peak, sum(each.memory_full_info().pss for each in (watched, *watched.children(True))))
                time.sleep(0.5)
            if process.returncode:
                raise SystemExit(f"{name} failed")
            output.seek(0)
            found: dict[str, Any] = json.loads(output.read().splitlines()[-1])
    return found | {"memory": peak / 1e9}


def photos(data_dir: Path, rounds: int, epochs: int, number: int, out: Path) -> dict[str, dict[str, list[float]]]:
    """Photographs per second in the first and in later epochs, memory and cache, in turns.

    The photographs are kept in `data_dir`, and further rounds are added to those in `out`. Loaders that decode in each
    epoch train for one, as all of theirs are alike.
    """
    root, file = data_dir / f"photographs-{number}", out / "photos.json"
    write_photographs(root, number)
    found: dict[str, dict[str, list[float]]] = json.loads(file.read_text()) if file.exists() else {}
    titles = ("first epoch: photographs per second", "later epochs: photographs per second", "peak memory, GB")
    found = {title: found.get(title, {}) for title in (*titles, "cache on disk, GB")}
    for _ in range(rounds):
        for name, (package, _) in METHODS.items():
            if not find_spec(package):
                print(f"{name}: install {package} to measure it")
                continue
            one = run(name, root, epochs if package == "kindling" else 1)
            later = one["seconds"][1:] or one["seconds"]
            rates = one["images"] / one["seconds"][0], one["images"] * len(later) / sum(later)
            for title, value in zip(found, (*rates, one["memory"], one.get("cache", 0) / 1e9), strict=True):
                found[title].setdefault(name, []).append(value)
            print(f"{name}: {one}", flush=True)
    return found


if __name__ == "__main__":
    measure = [*METHODS.values()][int(sys.argv[1])][1]
    print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
