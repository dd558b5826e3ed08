"""Trains a CNN recipe in a bare PyTorch loop, as a baseline for the overhead of Lightning.

No Trainer, no logging, no checkpoints. Network and data are those of Kindling, so Lightning is still imported. Prints
one line per epoch with the seconds since the start and the validation accuracy, and at the end the test accuracy.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = time.perf_counter()

import torch  # noqa: E402  (the measured time includes these imports)
import yaml  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from kindling import CNNClassifier, MNISTDataModule  # noqa: E402
from kindling.utils.tensors import to_float  # noqa: E402

TRAINING = ("optimizer", "lr_scheduler", "label_smoothing")  # arguments of a recipe's model that `train` uses


def train(model: CNNClassifier, data: MNISTDataModule, recipe: dict[str, Any], epochs: int) -> Iterator[float]:
    """Train the network by the recipe; yield the time when each step starts and when the last one ends."""
    settings = recipe["model"]["init_args"]
    inputs, labels = data.train.inputs, data.train.labels
    batch_size = data.batch_size
    network = model.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), **settings["optimizer"]["init_args"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings["optimizer"]["init_args"]["lr"], total_steps=epochs * -(-len(labels) // batch_size)
    )
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(batch_size):  # type: ignore[no-untyped-call]
            yield time.perf_counter()
            images = (data.augment(to_float(inputs[chosen])) - model.mean) / model.std
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=settings["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    yield time.perf_counter()


def accuracy(model: CNNClassifier, inputs: Tensor, labels: Tensor) -> float:
    """Return the accuracy on samples (N, 1, 28, 28) with labels (N,)."""
    model.eval()
    correct = 0
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(labels), 1024):
            images, classes = inputs[start : start + 1024], labels[start : start + 1024]
            correct += int((model(to_float(images)).argmax(1) == classes).sum())
    return correct / len(labels)


def build(recipe: dict[str, Any], data_dir: str, seed: int) -> tuple[CNNClassifier, MNISTDataModule]:
    """Return the model and the data module of a recipe."""
    torch.manual_seed(seed)
    data = MNISTDataModule(data_dir=data_dir, **recipe["data"]["init_args"])
    data.setup("fit")
    data.setup("test")
    network = {name: value for name, value in recipe["model"]["init_args"].items() if name not in TRAINING}
    return CNNClassifier.for_data(data, **network), data


def main() -> None:
    """Train and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "configs" / "mnist_cnn_fast.yaml")
    options = parser.parse_args()
    recipe = yaml.safe_load(options.config.read_text())
    model, data = build(recipe, options.data_dir, options.seed)
    batches = -(-len(data.train) // data.batch_size)
    for step, _ in enumerate(train(model, data, recipe, options.epochs)):
        if step and step % batches == 0:
            reached = accuracy(model, data.val.inputs, data.val.labels)
            model.train()
            seconds = time.perf_counter() - START
            print(f"epoch {step // batches} seconds {seconds:.2f} accuracy {reached:.4f}", flush=True)
    reached = accuracy(model, data.test.inputs, data.test.labels)
    print(f"test seconds {time.perf_counter() - START:.2f} accuracy {reached:.4f}")


if __name__ == "__main__":
    main()
