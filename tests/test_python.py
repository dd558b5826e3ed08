"""A few lines of Python, as in a notebook, do the same as the command line."""

import csv
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from PIL import Image

from conftest import SHUFFLENET, Command
from kindling import ImageFolderDataModule, TransferClassifier, load


def written(name: str) -> list[dict[str, str]]:
    """Return the predictions of `kindling predict` for new samples, next to a checkpoint outside of a run."""
    with Path("model", name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_image_folder_is_learned_and_new_images_are_predicted(kindling: Command, cached: Path) -> None:
    random = np.random.default_rng(0)
    for folder, images in (("photos/bright", 20), ("photos/dark", 20), ("new", 5)):
        Path(folder).mkdir(parents=True)
        least = 0 if folder == "photos/dark" else 128
        for number in range(images):
            pixels = random.integers(least, least + 128, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{folder}/{number}.png")

    data = ImageFolderDataModule("photos", batch_size=8)
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET)
    trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, data)
    trainer.save_checkpoint("model.ckpt")
    labels, probabilities = load("model.ckpt").predict("new")

    result = kindling("predict", "--ckpt_path", "model.ckpt", "--data.predict", "new")
    assert result.code == 0, result.err
    rows = written("predictions_new.csv")
    assert [row["file"] for row in rows] == [f"{number}.png" for number in range(5)]
    assert [row["prediction"] for row in rows] == labels
    assert [[float(row[name]) for name in ("bright", "dark")] for row in rows] == [
        pytest.approx(row, abs=1e-5) for row in probabilities.tolist()
    ]
