"""Options of the training of image folders: mixed samples, mirrored images and small training sets."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Command, different
from kindling import CNNClassifier, CNNMultiLabelClassifier, ImageFolderDataModule
from kindling.data.auto_flip import choose_flip, keeps_labels
from kindling.data.datasets import ArrayDataset
from kindling.data.mnist import read_sample
from kindling.tensorboard.images import image_grid

FIT = (
    "fit --config images_cnn --data.data_dir shapes --model.hidden 16 --trainer.max_epochs 2 --run_name small "
    "--data.min_batches 4 --test_after_fit false"
).split()
AUGMENT = (
    "--data.auto_augment ta_wide --data.erasing 0.3 --data.mixup 0.4 --data.cutmix 1 --data.crop 0.7 --data.ratio 1.3"
).split()
RUNS = [Path(f"runs/small/version_{number}") for number in range(2)]


def draw(kind: str, random: np.random.Generator) -> Image.Image:
    """Return an arrow to the left, to the right or to either, or a square, at a random place."""
    pixels = random.integers(0, 60, (12, 12, 3)).astype(np.uint8)
    row, column = random.integers(1, 6, 2)  # mirrored images have the same places
    kind = random.choice(["left", "right"]) if kind == "arrow" else kind
    for number in range(6):
        width = 6 if kind == "square" else 6 - number
        start = column + (6 - width if kind == "left" else 0)
        pixels[row + number, start : start + width] = 220
    return Image.fromarray(pixels)


def write_shapes(kinds: tuple[str, ...] = ("left", "right"), number: int = 25) -> None:
    random = np.random.default_rng(0)
    for kind in kinds:
        folder = Path("shapes") / kind
        folder.mkdir(parents=True)
        for index in range(number):
            draw(kind, random).save(folder / f"{index}.png")


def test_mixed_and_augmented_training_resumes_exactly(kindling: Command) -> None:
    write_shapes()
    crash = ["--trainer.callbacks", json.dumps([{"class_path": "helpers.CrashAt", "init_args": {"step": 6}}])]
    assert kindling(*FIT, *AUGMENT).code == 0
    with pytest.raises(RuntimeError, match="simulated crash"):
        kindling(*FIT, *AUGMENT, "--checkpoint.every_n_steps", "5", *crash)
    result = kindling("fit", "--ckpt_path", RUNS[1], "--trainer.callbacks", "null")
    assert result.code == 0, result.err
    assert different(*(run / "checkpoints/last.ckpt" for run in RUNS)) == []
    with (RUNS[0] / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["train/accuracy"]) <= 1 for row in rows if row.get("train/accuracy"))


def test_training_samples_are_shown_with_the_shares_of_their_classes(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shapes()
    shown: list[list[list[str]]] = []

    def record(pictures: torch.Tensor, captions: list[list[str]]) -> Image.Image:
        shown.append(captions)
        return image_grid(pictures, captions)

    monkeypatch.setattr("kindling.tensorboard.training_samples.image_grid", record)
    assert kindling(*FIT, "--data.mixup", "1", "--trainer.max_epochs", "1").code == 0
    captions = [text for (text,) in shown[0]]
    assert any(re.fullmatch(r"(left|right) \d+%, (left|right) \d+%", text) for text in captions)


def test_several_classes_are_mixed_too(kindling: Command) -> None:
    write_shapes(("left", "square"))
    names = [str(path.relative_to("shapes")) for path in sorted(Path("shapes").glob("*/*.png"))]
    tags = ("arrow|left", "square", "")
    Path("tags.csv").write_text(
        "file,tags\n" + "".join(f"{name},{tags[number % 3]}\n" for number, name in enumerate(names))
    )
    result = kindling(*FIT, "--data.labels", "tags.csv", "--data.mixup", "0.4", "--data.cutmix", "1")
    assert result.code == 0, result.err


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_numbers_can_not_be_mixed(option: str) -> None:
    write_shapes()
    names = [str(path.relative_to("shapes")) for path in sorted(Path("shapes").glob("*/*.png"))]
    Path("sizes.csv").write_text("file,size\n" + "".join(f"{name},{number}.5\n" for number, name in enumerate(names)))
    message = "MixUp and CutMix need classes, but the targets of shapes are not: leave out --data.mixup and --data.cutm"
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule("shapes", labels="sizes.csv", **{option: 0.4}).setup("fit")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_old_name_of_an_option_works_in_options_recipes_and_checkpoints(kindling: Command) -> None:
    write_shapes()
    Path("old.yaml").write_text("data: {init_args: {colour: 0.3}}")
    assert "colour has been renamed to color" in kindling(*FIT, "--trainer.max_epochs", "1", "--data.colour", "0.2").err
    assert kindling(*FIT, "--config", "old.yaml", "--data.color", "0.4", "--trainer.max_epochs", "1").code == 0
    Path("last.ckpt").write_bytes((RUNS[0] / "checkpoints/last.ckpt").read_bytes())
    for checkpoint in (RUNS[0], "last.ckpt"):
        result = kindling("validate", "--ckpt_path", checkpoint, "--data.data_dir", "shapes")
        assert (result.code, "colour has been renamed to color" in result.err) == (0, True), result.err


def test_the_new_name_of_an_option_wins() -> None:
    assert ImageFolderDataModule("shapes", colour=0.2).augmentation.color == 0.2
    assert ImageFolderDataModule("shapes", colour=0.3, color=0.4).augmentation.color == 0.4


@pytest.mark.parametrize(("kinds", "flip"), [(("left", "right"), False), (("arrow", "square"), True)])
def test_images_are_mirrored_unless_that_changes_their_label(
    kinds: tuple[str, ...], flip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write_shapes(kinds)
    caplog.set_level("INFO")
    data = ImageFolderDataModule("shapes", flip="auto")
    data.setup("fit")
    assert f"--data.flip {str(flip).lower()} is chosen" in caplog.text
    assert data.state_dict()["flip"] is data.augmentation.flip is flip


@pytest.mark.parametrize("flip", [True, False])
def test_a_checkpoint_decides_about_mirroring(monkeypatch: pytest.MonkeyPatch, flip: bool) -> None:
    write_shapes()
    first, second = (ImageFolderDataModule("shapes", flip="auto") for _ in range(2))
    monkeypatch.setattr("kindling.data.images.augmented.choose_flip", lambda *_: flip)
    first.setup("fit")
    monkeypatch.setattr("kindling.data.images.augmented.choose_flip", lambda *_: not flip)
    second.setup("fit")
    second.load_state_dict(first.state_dict())
    assert second.augmentation.flip is second.augments is flip
    third = ImageFolderDataModule("shapes", flip=not flip)
    third.load_state_dict(first.state_dict())
    assert third.augmentation.flip is not flip
    ImageFolderDataModule("shapes").combine_fitted([first.state_dict(), first.state_dict() | {"flip": not flip}])


def test_labels_of_several_classes_and_numbers_decide_about_mirroring() -> None:
    random = np.random.default_rng(0)
    kinds = ["left", "right"] * 30
    images = torch.stack([torch.from_numpy(np.array(draw(kind, random))) for kind in kinds]).permute(0, 3, 1, 2) / 255
    labels = torch.tensor([kind == "left" for kind in kinds])
    assert not keeps_labels(images, torch.stack([labels, ~labels], dim=1))
    assert keeps_labels(images, torch.ones(60, 2))
    assert not keeps_labels(images, labels.float() * 10)
    assert keeps_labels(images, torch.arange(60) / 60 * 0 + 3.0)
    assert not keeps_labels(images[:29], torch.ones(29))  # too few to tell


def test_an_epoch_of_few_images_has_as_many_batches_as_asked_for(kindling: Command) -> None:
    write_shapes(number=11)  # 22 images, 16 for training
    result = kindling(*FIT, "--data.min_batches", "5", "--data.batch_size", "6", "--trainer.max_epochs", "3")
    assert result.code == 0, result.err
    step = torch.load(RUNS[0] / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    training = sum(row["split"] == "train" for row in csv.DictReader((RUNS[0] / "split.csv").open(newline="")))
    batches = [full + (rest >= 2) for full, rest in (divmod(passes * training, 6) for passes in range(1, 9))]
    assert step == 3 * next(number for number in batches if number >= 5)
    assert batches[0] < 5


@pytest.mark.slow
@pytest.mark.parametrize(("options", "lowest", "highest"), [([], 0.8, 1), (["--data.min_batches", "1"], 0, 0.7)])
def test_images_cnn_learns_from_few_images(
    kindling: Command, options: list[str], lowest: float, highest: float
) -> None:
    """Two batches per epoch are too few steps, and too few for the running statistics of batch norm."""
    for split, number in (("train", 6), ("test", 20)):
        images, labels = read_sample("train" if split == "train" else "test")
        for label in range(10):
            folder = Path("digits") / split / str(label)
            folder.mkdir(parents=True)
            for index in (labels == label).nonzero()[:number, 0].tolist():
                Image.fromarray(images[index, 0].numpy()).save(folder / f"{index}.png")
    fit = "fit --config images_cnn --data.data_dir digits --run_name small --seed_everything 1".split()
    result = kindling(*fit, *options)
    assert result.code == 0, result.err
    accuracy = json.loads((RUNS[0] / "test_metrics.json").read_text())["test/accuracy"]
    assert lowest <= accuracy <= highest


def test_soft_targets_have_the_loss_of_their_labels() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4), torch.randint(4, (7,))
    shares = torch.nn.functional.one_hot(labels, 4).float()
    shape = {"input_shape": (3, 8, 8), "num_classes": 4}
    for options in ({}, {"label_smoothing": 0.1}, {"loss_function": "focal"}):
        model = CNNClassifier(**shape, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(model.loss(logits, shares), model.loss(logits, labels))
        mixed = 0.3 * shares + 0.7 * shares.roll(1, 0)
        if not options:
            expected = 0.3 * model.loss(logits, labels) + 0.7 * model.loss(logits, labels.roll(1))
            torch.testing.assert_close(model.loss(logits, mixed), expected)
    model = CNNClassifier(**shape)  # type: ignore[arg-type]
    assert torch.equal(model.metric_targets(0.3 * shares + 0.7 * shares.roll(1, 0)), labels.roll(1))
    several = CNNMultiLabelClassifier(**shape)  # type: ignore[arg-type]
    assert several.metric_targets(torch.tensor([[0.2, 0.5], [1, 0.4]])).tolist() == [[0, 1], [1, 0]]


def test_the_reason_for_not_mirroring_few_images_is_their_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (21, 3, 16, 16), dtype=torch.uint8, generator=random)
    assert not choose_flip(ArrayDataset(images, torch.arange(21) % 2), 0)
    line = "fewer than 30 training images can't tell whether mirrored ones keep their label"
    assert caplog.messages == [f"--data.flip false is chosen: {line}; --data.flip true mirrors them anyway"]
