"""Trains on a folder of images in a plain loop, with torchvision's ImageFolder and a DataLoader with workers.

The network is that of one of Kindling's CNN recipes. `benchmark.py images` compares it with `kindling fit`.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bare_loop import TRAINING
from kindling import CNNClassifier


def make_loader(
    root: Path, batch_size: int, workers: int, size: int | None, augmentation: Sequence[Any] = ()
) -> DataLoader[Any]:
    """Return a DataLoader of torchvision's ImageFolder; see `epoch_times`. `augmentation` replaces its resizing."""
    resize = augmentation or ([transforms.Resize(size), transforms.CenterCrop(size)] if size else [])
    normalize = transforms.Normalize((0.1307,) * 3, (0.3081,) * 3)
    data = ImageFolder(str(root), transforms.Compose([*resize, transforms.ToTensor(), normalize]))
    return DataLoader(data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def epoch_times(
    root: Path, path: Path, epochs: int, bf16: bool, workers: int = 2, size: int | None = None
) -> list[float]:
    """Train a recipe on `root/<class>/*.png` and return the seconds of each epoch.

    Args:
        root: Folder of the images.
        path: File of the recipe.
        epochs: Number of epochs.
        bf16: Whether to use bfloat16 mixed precision.
        workers: Number of data-loading processes.
        size: Height and width to resize and crop images to.
    """
    loader = make_loader(root, yaml.safe_load(path.read_text())["data"]["init_args"]["batch_size"], workers, size)
    return train(loader, len(loader.dataset.classes), tuple(loader.dataset[0][0].shape), path, epochs, bf16)  # type: ignore[attr-defined]


def train(
    loader: Any, classes: int, shape: tuple[int, ...], path: Path, epochs: int, bf16: bool = False
) -> list[float]:
    """Train a recipe on batches of images and labels and return the seconds of each epoch.

    Args:
        loader: The batches; its length is their number.
        classes: Number of classes.
        shape: Shape of an image, (C, H, W).
        path: File of the recipe.
        epochs: Number of epochs.
        bf16: Whether to use bfloat16 mixed precision.
    """
    settings = yaml.safe_load(path.read_text())["model"]["init_args"]
    described = {name: value for name, value in settings.items() if name not in TRAINING}
    network = CNNClassifier(num_classes=classes, input_shape=shape, **described).network.train()
    optimizer = torch.optim.AdamW(network.parameters(), **settings["optimizer"]["init_args"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings["optimizer"]["init_args"]["lr"], total_steps=epochs * len(loader)
    )
    found = []
    for _ in range(epochs):
        start = time.perf_counter()
        for images, labels in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        found.append(time.perf_counter() - start)
    return found
