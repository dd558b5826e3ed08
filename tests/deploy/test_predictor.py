import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import CONFIGS, TINY, Command, Train
from kindling import CNNClassifier, Predictor, load
from kindling.data.mnist import read_sample

CNN = (
    "--model CNNClassifier --model.channels [4,8] --data MNISTDataModule --data.source sample --run_name cnn "
    "--trainer.max_epochs 1 --trainer.limit_train_batches 10"
).split()


@pytest.fixture
def digits(trained: Train) -> Predictor:
    trained(*CNN)
    return load("runs/cnn/version_0")


@pytest.fixture
def images() -> torch.Tensor:
    return read_sample("test")[0][::100]  # (10, 1, 28, 28) bytes


def test_it_predicts_what_the_command_predicts(kindling: Command, digits: Predictor) -> None:
    assert kindling("predict", "--ckpt_path", "best").code == 0
    with Path("runs/cnn/version_0/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels, probabilities = digits.predict(read_sample("test")[0])
    assert labels == [row["prediction"] for row in rows]
    written = [[float(row[name]) for name in "0123456789"] for row in rows]
    np.testing.assert_allclose(probabilities, written, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("samples", [[], (), np.empty((0, 1, 28, 28)), torch.empty(0)], ids=repr)
def test_no_samples_are_refused(digits: Predictor, samples: Any) -> None:
    with pytest.raises(ValueError, match=r"^there are no samples: .*1, 28, 28"):
        digits.predict(samples)


def test_images_may_be_held_in_any_way(digits: Predictor, images: torch.Tensor) -> None:
    Path("photos").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"photos/{number}.png")
    files = sorted(Path("photos").iterdir())
    model = CNNClassifier.load_from_checkpoint("runs/cnn/version_0/checkpoints/best.ckpt").eval()
    with torch.no_grad():
        expected = model.to_prediction(model(images.float() / 255)).numpy()
    ways: list[Any] = [
        images,
        images.numpy(),
        images.float() / 255,
        (images.double() / 255).numpy(),
        images[:, 0],
        images.movedim(1, -1).numpy(),
        (images.float() / 255).tolist(),
        "photos",
        Path("photos"),
        [str(file) for file in files],
        [Image.open(file) for file in files],
        [Image.open(file).convert("RGBA") for file in files],
    ]
    for way in ways:
        labels, probabilities = digits.predict(way)
        assert labels == [str(best) for best in expected.argmax(1)]
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    for one in (images[0], images[0, 0].numpy(), files[0], Image.open(files[0])):
        np.testing.assert_allclose(digits.predict(one).probabilities, expected[:1], rtol=1e-4, atol=1e-6)


def test_the_card_says_what_the_model_is(digits: Predictor) -> None:
    measured = json.loads(Path("runs/cnn/version_0/test_metrics.json").read_text())
    assert (digits.card.model, digits.card.input_shape) == ("CNNClassifier", (1, 28, 28))
    assert digits.card.classes == tuple("0123456789")
    assert digits.card.metrics == measured


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 1, 27, 28)), r"must have the shape \(1, 28, 28\) or \(N, 1, 28, 28\), not \(2, 1, 27, 28\)"),
        (np.full((1, 28, 28), 255.0), "between 0 and 1, got 255 to 255"),
        (np.full((1, 28, 28), np.nan), "finite"),
        ([["a", "b"]], "must be numbers"),
        ([[1, 2], [3]], "must be numbers"),
        ("broken.png", "broken.png"),
        ("empty", "empty has no images"),
        ({"age": 3}, "not rows of a table"),
        ([], "there are no samples"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_named(digits: Predictor, samples: Any, message: str) -> None:
    Path("broken.png").write_bytes(b"nothing")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=message):
        digits.predict(samples)


def test_an_untrained_checkpoint_is_not_loaded(trained: Train) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint nowhere"):
        load("nowhere")
    trained(*TINY)
    good = torch.load("runs/tiny/version_0/checkpoints/best.ckpt", weights_only=True)
    for change, message in (
        ({"global_step": 0}, "has not been trained"),
        ({"hyper_parameters": {"_class_path": "os.mkdir", "path": "made"}}, "os.mkdir, which is not a model"),
        ({"hyper_parameters": good["hyper_parameters"] | {"_class_path": "gone.Model"}}, "gone.Model from a plug-in"),
        (
            {"hyper_parameters": good["hyper_parameters"] | {"hidden": (9,)}},
            "does not match the current class MLPClassifier",
        ),
    ):
        torch.save(good | change, "changed.ckpt")
        with pytest.raises(ValueError, match=message):
            load("changed.ckpt")
    assert not Path("made").exists()


@pytest.mark.slow
def test_the_ways_to_save_and_load_in_the_guide_work(kindling: Command) -> None:
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    assert kindling("fit", "--config", "configs/quickstart.yaml", *few).code == 0
    blocks = (CONFIGS.parent / "docs/python.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = (block.split("```")[0] for block in blocks if "weights.pt" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    images = read_sample("test")[0][:5]
    with torch.no_grad():
        model = names["model"].eval()
        found = model.to_prediction(model(images / 255))
    np.testing.assert_allclose(found, load().predict(images).probabilities, rtol=1e-4, atol=1e-6)
