import csv
import io
import json
import os
import re
import shutil
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path, PureWindowsPath
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import InterpolationMode

from conftest import Command
from helpers import png_16
from kindling import ImageFolderDataModule, MLPClassifier, load
from kindling.data.datamodule import Batch
from kindling.data.images.bit_depth import find_levels
from kindling.data.images.decode import ImageFiles, read_image
from kindling.data.images.image_info import inspect
from kindling.data.images.samples import Sample
from kindling.data.images.split_file import read_image_split
from kindling.data.images.splits import make_image_splits
from kindling.deploy.body_contents import from_images
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor

pytestmark = pytest.mark.usefixtures("console_logs")

FIT = (
    "--model MLPClassifier --model.hidden [8] --model.optimizer.lr 0.01 --data ImageFolderDataModule "
    "--data.data_dir photos --data.batch_size 8 --trainer.max_epochs 1 --run_name photos"
).split()
RUN = Path("runs/photos/version_0")
COLORS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "owl": (40, 40, 220)}


def photo(label: str, seed: int, size: tuple[int, int] = (14, 12)) -> Image.Image:
    """Return an image of noise around the color of a class."""
    noise = np.random.default_rng([seed, *label.encode()]).integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLORS[label]) + noise).astype(np.uint8))


def write(folder: Path | str, number: int, labels: str = "cat dog owl", first: int = 0, kind: str = "png") -> None:
    for label in labels.split():
        (Path(folder) / label).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + number):
            photo(label, seed).save(Path(folder) / label / f"{seed:02}.{kind}")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_an_image_folder_is_learned_and_new_images_are_classified(kindling: Command) -> None:
    write("photos", 20)
    write("photos/cat/deeper/still", 5, "cat", first=50, kind="jpg")
    for junk in ("cat/.hidden.png", "cat/notes.txt", ".cache/x.png", "readme.png"):
        (Path("photos") / junk).parent.mkdir(exist_ok=True)
        (Path("photos") / junk).write_text("no image")
    result = kindling("fit", *FIT, "--trainer.max_epochs", 8)
    assert result.code == 0, result.err
    split = table(RUN / "split.csv")
    assert list(split[0]) == ["file", "class", "split"]
    on_disk = {path.relative_to("photos").as_posix() for path in Path("photos").glob("*/**/[0-9]*")}
    assert {row["file"] for row in split} == on_disk
    assert len(split) == len(on_disk) == 65
    assert all(row["file"].split("/")[0] == row["class"] for row in split)
    counts = Counter((row["class"], row["split"]) for row in split)
    assert [counts["dog", split] for split in ("train", "val", "test")] == [14, 2, 4]  # 20%, then 10% of the rest
    assert len(counts) == 9

    shutil.move("photos", "away")  # new images need nothing of the old ones
    write("new/some where", 3, first=90, kind="jpg")
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "new")
    assert result.code == 0, result.err
    rows = table(RUN / "predictions_new.csv")
    assert list(rows[0]) == ["file", "prediction", "probability", "cat", "dog", "owl"]
    assert [row["file"] for row in rows] == [f"some where/{name}/9{n}.jpg" for name in COLORS for n in range(3)]
    assert [row["prediction"] for row in rows] == [name for name in COLORS for _ in range(3)]
    assert kindling("predict", "--ckpt_path", "best", "--data.predict", "new/some where/owl/91.jpg").code == 0
    assert [(row["file"], row["prediction"]) for row in table(RUN / "predictions_91.csv")] == [("91.jpg", "owl")]


@pytest.mark.parametrize("given", ["train", "train val", "train test", "train val test"])
def test_given_splits_are_kept_and_missing_ones_are_drawn(given: str) -> None:
    for number, split in enumerate(given.split()):
        write(f"photos/{split}", 10, first=20 * number)
    data = ImageFolderDataModule("photos", val_split=0.2)
    data.setup("fit")
    data.setup("test")
    data.write_split(Path())
    made = Path("split.csv").exists()
    assert made == (given != "train val test")
    for row in table(Path("split.csv")) if made else []:
        folder = row["file"].split("/")[0]
        assert row["split"] == folder or (folder == "train" and row["split"] not in given.split()[1:])
    sizes = {"train": (18, 6, 6), "train val": (24, 30, 6), "train test": (24, 6, 30), "train val test": (30, 30, 30)}
    assert (len(data.train), len(data.val), len(data.test)) == sizes[given]
    if "test" in given:
        assert all(str(file).startswith("test/") for file in data.tested_rows())
    assert data.sample_details(1) == {"file": data.tested_rows()[1]}


def test_test_images_were_not_trained_on_even_if_images_were_added(kindling: Command) -> None:
    write("photos", 10)
    kindling("fit", *FIT, "--test_after_fit", "false")
    held_out = [row["file"] for row in table(RUN / "split.csv") if row["split"] == "test"]
    write("photos", 30, first=30)
    result = kindling("predict", "--ckpt_path", "best")
    assert result.code == 0, result.err
    new = f"not used: 90 images of photos that {RUN / 'split.csv'} does not list, added or changed after the run was"
    assert f"{new} started (cat/30.png, cat/31.png and 88 more); a new run uses them\n" in result.err
    assert [row["file"] for row in table(RUN / "predictions.csv")] == held_out
    (Path("photos") / held_out[0]).unlink()
    result = kindling("test", "--ckpt_path", "best")
    assert result.code == 1
    assert held_out[0] in result.err
    assert "split.csv" in result.err


@pytest.mark.slow
def test_all_images_of_another_folder_are_tested_by_class_name(kindling: Command) -> None:
    write("photos", 10)
    kindling("fit", *FIT, "--trainer.max_epochs", 8)
    write("others", 4, "dog owl", first=70)  # without the first class: labels must not shift
    result = kindling("test", "--ckpt_path", "best", "--data.data_dir", "others")
    assert result.code == 0, result.err
    assert "others is not the folder that the model was trained on: all of its 8 images are used" in result.err
    assert "test/accuracy" in result.out.replace(" ", "").replace("│", " ")
    assert "1.0000" in result.out
    (Path("others") / "dog").rename("others/wolf")
    result = kindling("test", "--ckpt_path", "best", "--data.data_dir", "others")
    assert (result.code, result.err.count("kindling: error:")) == (1, 1)
    assert "wolf" in result.err
    assert "cat, dog, owl" in result.err


ODD = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8), "RGBA")
FEW = ODD.convert("RGB").convert("P")
GRAY16 = np.linspace(0, 65535, 81).astype(np.uint16).reshape(9, 9)


def on_white(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return np.asarray(rgba[..., :3] * alpha + 255 * (1 - alpha))


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (ODD.convert("RGB"), {"format": "PNG"}, ODD.convert("RGB")),
        (ODD.convert("RGB"), {"format": "BMP"}, ODD.convert("RGB")),
        (ODD.convert("RGB"), {"format": "WEBP", "lossless": True}, ODD.convert("RGB")),
        (ODD.convert("L"), {"format": "PNG"}, ODD.convert("L")),
        (ODD.convert("1"), {"format": "PNG"}, ODD.convert("1").convert("L")),
        (FEW, {"format": "GIF"}, FEW.convert("RGB")),
        (FEW, {"format": "PNG"}, FEW.convert("RGB")),
        (ODD, {"format": "PNG"}, on_white(ODD)),
        (ODD.convert("LA"), {"format": "PNG"}, on_white(ODD.convert("LA"))),
        (ODD, {"format": "WEBP", "lossless": True, "exact": True}, on_white(ODD)),
        (Image.fromarray(GRAY16), {"format": "PNG"}, np.round(GRAY16 / 257)),
        (Image.new("CMYK", (9, 9), (255, 0, 0, 0)), {"format": "JPEG"}, np.full((9, 9, 3), (0, 255, 255))),
        (Image.new("L", (9, 9), 77), {"format": "JPEG"}, np.full((9, 9), 77)),
    ],
)
def test_every_image_mode_becomes_rgb(
    image: Image.Image, options: dict[str, object], expected: Image.Image | np.ndarray
) -> None:
    Path("image").write_bytes(encoded(image, **options))
    values = np.asarray(expected).astype(float)
    values = values if values.ndim == 3 else np.stack([values] * 3, axis=2)
    ours = read_image("image", (3, 9, 9))
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, 9, 9)
    assert np.abs(ours.permute(1, 2, 0).numpy() - values).max() <= 1


def test_transparent_palette_images_are_put_on_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(0, (0, 0, 4, 8))
    palette.save("image.png", transparency=0)
    palette.save("image.gif", transparency=0)
    for name in ("image.png", "image.gif"):
        assert read_image(name, (3, 8, 8))[:, 0].T.tolist() == [[255] * 3] * 4 + [[0, 0, 255]] * 4


UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_rotated_by_their_exif_orientation(orientation: int) -> None:
    image = ODD.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Path("image.png").write_bytes(encoded(image, format="PNG", exif=exif))
    expected = UPRIGHT[orientation](np.asarray(image))
    assert np.array_equal(read_image("image.png", (3, 9, 9)).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(120, 60), (60, 180), (28, 28), (24, 12), (300, 20)])
def test_size_and_cut_agree_with_torchvision(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    image.save("image.png")
    resized = F.resize(image, [20], InterpolationMode.BILINEAR, antialias=True)
    theirs = F.pil_to_tensor(F.center_crop(resized, [20])).float()
    ours = read_image("image.png", (3, 20, 20)).float()
    assert ours.shape == (3, 20, 20)
    assert (ours - theirs).abs().max() <= 1


def test_a_large_jpeg_is_as_accurate_as_one_decoded_at_full_size() -> None:
    smooth = np.add.outer(np.sin(np.arange(900) / 40), np.cos(np.arange(1200) / 50)) * 60 + 128
    Image.fromarray(smooth.astype(np.uint8)).convert("RGB").save("image.jpg", quality=95)
    whole = Image.open("image.jpg").crop((150, 0, 1050, 900)).resize((64, 64), Image.Resampling.BILINEAR)
    difference = read_image("image.jpg", (3, 64, 64)).float() - F.pil_to_tensor(whole).float()
    assert difference.abs().max() <= 4


FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {},
    "png": {},
    "webp": {},
    "gif": {},
    "bmp": {},
    "jpeg": {"progressive": True},
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("left", [0.4, 0.98])
def test_truncated_files_are_detected(kind: str, left: float) -> None:
    path = Path(f"image.{kind}")
    photo("cat", 1, (60, 40)).save(path, **FORMATS[kind])
    read_image(path, (3, 20, 20))
    cut(path, left)
    with pytest.raises(ValueError, match=f"{path}: this image is broken"):
        read_image(path, (3, 20, 20))


def bomb() -> bytes:
    """Return a PNG whose header claims 30,000 x 30,000 pixels."""
    data = bytearray(encoded(Image.new("L", (8, 8)), format="PNG"))
    data[16:24] = struct.pack(">II", 30000, 30000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def damage(path: Path) -> None:
    """Write an image file whose beginning and end are valid but which can't be decoded."""
    photo("dog", 99, (40, 40)).save(path, "png")
    data = bytearray(path.read_bytes())
    data[300:900] = bytes(600)
    path.write_bytes(data)


def test_broken_images_stop_the_run_or_are_skipped(kindling: Command) -> None:
    write("photos", 10, "cat dog")
    write("photos", 2, "cat", first=80, kind="jpg")
    cut(Path("photos/cat/80.jpg"))
    Path("photos/cat/text.jpg").write_text("no image")
    Path("photos/dog/empty.png").touch()
    Path("photos/dog/bomb.png").write_bytes(bomb())
    Image.new("RGB", (9, 9)).save("photos/dog/scan.jpg", "tiff")
    broken = {
        "cat/80.jpg": "runcated",
        "cat/text.jpg": "it is text, not JPEG, PNG, WEBP, BMP, GIF",
        "dog/bomb.png": "30,000 x 30,000 pixels",
        "dog/empty.png": "it is empty",
        "dog/scan.jpg": "it is a TIFF or camera raw file, not JPEG",
    }
    result = kindling("fit", *FIT)
    assert result.code == 1
    *lines, error = result.err.splitlines()  # all of them, with what is wrong
    assert "5 of 26 images can't be used: photos/" in error
    assert "--data.skip_broken true" in error
    for line, (file, fault) in zip(sorted(lines), broken.items(), strict=True):
        assert line.startswith(f"photos/{file}: this image is ")
        assert fault in line
    assert not Path("runs").exists()
    result = kindling("fit", *FIT, "--data.skip_broken", "true")
    assert result.code == 0, result.err
    assert sum("skipped: 5 of 26 images can't be used" in line for line in result.err.splitlines()) == 1
    assert {row["file"] for row in table(RUN / "split.csv")}.isdisjoint(broken)
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "photos")
    assert result.code == 0, result.err
    assert len(table(RUN / "predictions_photos.csv")) == 21
    shutil.copy("photos/cat/text.jpg", "hello.txt")
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "hello.txt")
    assert (result.code, result.err.count("kindling: error:")) == (1, 1)
    assert "1 of 1 images can't be used: hello.txt; use other files" in result.err
    Path("empty").mkdir()
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "empty")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "empty has no images" in result.err
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "nowhere")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "nowhere not found: give an image or a folder of images" in result.err


@pytest.mark.slow
def test_a_run_that_skipped_broken_images_resumes(kindling: Command) -> None:
    for split in ("train", "val", "test"):
        for label, side in (("cat", 12), ("dog", 20)):
            folder = Path("photos", split, label)
            folder.mkdir(parents=True)
            for number in range(2):
                photo(label, number, (side, side)).save(folder / f"{split}{number}.png")
    damage(Path("photos/train/dog/damaged.png"))  # of 40 x 40 pixels
    once = ["--data.skip_broken", "true", "--test_after_fit", "false"]
    assert kindling("fit", *FIT, *once).code == 0
    stored = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["ImageFolderDataModule"]
    listed = ImageFolderDataModule("photos", split=RUN / "split.csv")  # without the damaged image
    assert (stored["image_size"], listed.input_shape[1]) == (20, 16)
    result = kindling("fit", "--ckpt_path", "runs/photos", "--trainer.max_epochs", "4")
    assert result.code == 0, result.err
    assert {row["epoch"] for row in table(RUN / "metrics.csv")} >= {"0", "3"}


def test_a_broken_image_does_not_stop_the_prediction_of_the_others(kindling: Command) -> None:
    write("photos", 10)
    assert kindling("fit", *FIT).code == 0
    write("new", 2, first=90)
    predict = ["predict", "--ckpt_path", "best", "--data.predict", "new"]
    assert kindling(*predict).code == 0
    whole = table(RUN / "predictions_new.csv")
    for file in ("cat/91.png", "owl/91.png"):
        cut(Path("new", file))
    for memory in (4.0, 0.0):
        result = kindling(*predict, "--data.memory_gb", memory)
        assert result.code == 1
        assert "4 predictions: runs/photos/version_0/predictions_new.csv" in result.out
        *faults, error = result.err.splitlines()
        assert [fault.split(": ")[0] for fault in faults] == ["new/cat/91.png", "new/owl/91.png"]
        assert "2 of 6 files can't be used" in error
        assert "cat/91.png, owl/91.png; replace them, or leave them out with --data.skip_broken true" in error
        for row, complete in zip(table(RUN / "predictions_new.csv"), whole, strict=True):
            is_broken = row["file"] in ("cat/91.png", "owl/91.png")
            assert row == (dict.fromkeys(complete, "") | {"file": complete["file"]} if is_broken else complete)
    few = ["--data.eval_batch_size", "1", "--trainer.limit_predict_batches", "2"]
    assert kindling(*predict, *few).code == 1
    assert table(RUN / "predictions_new.csv") == [
        whole[0],
        dict.fromkeys(whole[1], "") | {"file": "cat/91.png"},
        whole[2],
    ]
    result = kindling(*predict, "--data.skip_broken", "true")
    assert result.code == 0, result.err
    assert table(RUN / "predictions_new.csv") == [
        row for row in whole if row["file"] not in ("cat/91.png", "owl/91.png")
    ]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_damage_inside_a_file_is_found_before_training(
    split: str, memory: float, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val", "test"):
        write(f"photos/{name}", 3)
    damage(Path(f"photos/{split}/dog/inside.png"))
    assert inspect(f"photos/{split}/dog/inside.png").side == 40  # what can be read without decoding is whole
    with pytest.raises(ValueError, match=rf"1 of 28 .*: photos/{split}/dog/inside\.png;"):
        ImageFolderDataModule("photos", memory_gb=memory).setup("fit")
    module = ImageFolderDataModule("photos", memory_gb=memory, skip_broken=True)
    module.setup("fit")
    assert (len(module.train), len(module.train.inputs[torch.arange(9)]), len(module.val)) == (9, 9, 9)
    module.setup("test")
    assert len(module.test) == 9
    assert capsys.readouterr().err.count("skipped: ") == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_only_files_are_images_and_unreadable_ones_are_broken(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("photos", 4)
    os.mkfifo("photos/cat/pipe.png")
    Path("photos/cat/nowhere.png").symlink_to("gone.png")
    Path("photos/dog/folder.png").mkdir()
    result = kindling("fit", *FIT)
    assert result.code == 0, result.err
    read = Path.read_bytes

    def locked(path: Path) -> bytes:  # as for another user's file; the tests may run as root, who reads all
        if path.name == "02.png" and path.parent.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", locked)
    result = kindling("fit", *FIT)
    assert (result.code, result.err.count("kindling: error:")) == (1, 1)
    assert "photos/dog/02.png" in result.err
    assert "Permission denied" in result.err
    assert kindling("fit", *FIT, "--data.skip_broken", "true").code == 0


@pytest.mark.slow
def test_a_damaged_orientation_is_ignored_silently(kindling: Command, recwarn: pytest.WarningsRecorder) -> None:
    write("photos", 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("png", "jpg"):
        for damaged in (exif.tobytes()[:-9], b"Exif\0\0nonsense"):
            photo("cat", 7).save(f"photos/cat/{len(damaged)}.{kind}", exif=damaged)
            upright = read_image(f"photos/cat/{len(damaged)}.{kind}", (3, 12, 14)).permute(1, 2, 0).numpy()
            assert np.abs(upright - np.asarray(photo("cat", 7)).astype(float)).mean() < 20  # JPEG's own loss
    recwarn.clear()
    result = kindling("fit", *FIT)
    assert result.code == 0, result.err
    assert not [warning for warning in recwarn if "EXIF" in str(warning.message)]


def empty_class() -> None:
    Path("photos/bat").mkdir()


def one_class() -> None:
    for label in ("cat", "owl"):
        shutil.rmtree(f"photos/{label}")


def wrapped() -> None:
    shutil.move("photos", "inner")
    shutil.move("inner", "photos/inner")


def class_without_training() -> None:
    write("photos/train", 3, "cat dog")
    write("photos/test", 3, "cat owl")
    for label in COLORS:
        shutil.rmtree(f"photos/{label}")


def class_beside_splits() -> None:
    write("photos/train", 3)


def no_classes() -> None:
    shutil.rmtree("photos")
    Path("photos").mkdir()


def two_of_each() -> None:
    no_classes()
    write("photos", 2)


def no_text() -> None:
    Path(os.fsdecode(b"photos/cat/caf\xe9.png")).write_bytes(Path("photos/cat/00.png").read_bytes())


def no_text_in_class() -> None:
    Path("photos/cat").rename(os.fsdecode(b"photos/caf\xe9"))


def only_strange() -> None:
    for path in Path("photos/cat").iterdir():
        path.rename(path.with_name(f"{int(path.stem)}.png.bak"))


def splits_named(*names: str) -> Callable[[], None]:
    def change() -> None:
        no_classes()
        for name in names:
            write(f"photos/{name}", 3)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: shutil.rmtree("photos"), "folder photos not found: .* <class>/"),
        (no_classes, "photos has no class folders: .* <class>/"),
        (one_class, "only one class \\(dog\\); .* two classes; if a file holds the labels, add --data.labels FILE$"),
        (wrapped, "one class .inner.; .*cat, dog, owl.* --data.data_dir photos/inner"),
        (empty_class, "photos/bat has no images"),
        (class_without_training, "photos has no usable training images of owl: add"),
        (class_beside_splits, "photos/cat has images but"),
        (
            two_of_each,
            "`val_split` is 0.1, but the test split leaves no class two images: one to train on and one for val",
        ),
        (no_text, r"photos/cat/caf\\udce9.png' is not UTF-8: rename"),
        (no_text_in_class, r"photos/caf\\udce9/.*' is not UTF-8: rename"),
        (splits_named("train", "val", "valid"), "photos has two folders for the split val, val and valid: merge them"),
        (splits_named("train", "test", "eval"), "photos/eval has images but is not a split like train, test: move"),
        (only_strange, "photos/cat has no images .*; 0.png.bak is a backup copy"),
    ],
)
def test_unusable_image_folders_end_in_one_line(change: Callable[[], None], words: str) -> None:
    write("photos", 4)
    change()
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        ImageFolderDataModule("photos").setup("fit")
    assert "\n" not in str(error.value)


def test_a_class_may_have_the_name_of_a_split() -> None:
    write("photos", 4)
    Path("photos/cat").rename("photos/Validation")
    assert ImageFolderDataModule("photos").class_names == ("Validation", "dog", "owl")


def test_a_class_whose_training_images_are_all_broken_is_named(kindling: Command) -> None:
    write("photos", 4)
    shutil.copytree("photos/cat", "photos/bat")
    shutil.copytree("photos/cat", "photos/cow")
    for path in Path("photos/bat").iterdir():
        damage(path)
    for path in Path("photos/cow").iterdir():
        path.write_text("no image")
    result = kindling("fit", *FIT, "--data.skip_broken", "true")
    assert (result.code, result.err.count("kindling: error:")) == (1, 1)
    assert "photos has no usable training images of bat, cow" in result.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("crop", 0), ("crop", 1.1), ("color", -0.1), ("degrees", 200)],
        *[("image_size", 0), ("test_split", 1.0), ("val_split", 0)],
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    write("photos", 4)
    with pytest.raises(ValueError, match=rf"`{name}` must .*, got {re.escape(str(value))}$"):
        ImageFolderDataModule("photos", **{name: value}).setup("fit")  # type: ignore[arg-type]


SYSTEM = (
    "@eaDir __MACOSX $RECYCLE.BIN .ipynb_checkpoints .Trashes lost+found #recycle .git @Recycle .AppleDouble".split()
)


@pytest.mark.parametrize("name", [*SYSTEM, "System Volume Information", "@EADIR", ".Trash-1000", "FOUND.000"])
def test_system_files_are_neither_classes_nor_samples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("photos", 4)
    for folder in ("photos", "photos/cat", "photos/owl/deeper"):
        write(f"{folder}/{name}", 3, first=50)
        shutil.copy(f"{folder}/{name}/cat/50.png", f"{folder}/{name}/50.png")
        for file in ("._00.png", ".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", "00.png@SynoEAStream"):
            Path(folder, file).write_bytes(b"\0\1")
    data = ImageFolderDataModule("photos")
    assert data.class_names == ("cat", "dog", "owl")
    assert data.class_counts == (2, 2, 2)
    assert capsys.readouterr().err == ""


def strange_files(folder: str) -> list[str]:
    """Write files of every kind into a folder; return the expected message for each reason."""
    photo("cat", 50).save(f"{folder}/whole.jpe", "jpeg")
    photo("cat", 51).save(f"{folder}/no_suffix", "png")
    photo("cat", 52).save(f"{folder}/upload.tmp", "webp")
    photo("cat", 53).save(f"{folder}/odd.dat", "gif")
    photo("cat", 54).save(f"{folder}/LOUD.JPG", "jpeg")
    contents = {
        **{"a.HEIC": b"\0\0\0\x18ftypheic", "b.avif": b"\0\0\0\x18ftypavif", "c.tif": b"II*\0"},
        **{"notes.txt": b"BMW \xc3", "labels.csv": b"a,b", "d.mp4": b"\0\0\0\x18ftypisom", "e.zip": b"PK\3\4"},
        **{".f.jpg": b"", ".old/g.jpg": b"", "nothing": b"", "h.bin": b"\0\1", "00.png.bak": b"x", "i.pdf": b"%PDF-1"},
    }
    for name, content in contents.items():
        Path(folder, name).parent.mkdir(exist_ok=True)
        Path(folder, name).write_bytes(content)
    Path(folder, "gone").symlink_to("nowhere")
    (not_any := ", not JPEG, PNG, WEBP, BMP, GIF")
    return [
        f"2 files (a HEIC or AVIF image{not_any}): a.HEIC and 1 more",
        f"1 file (a PDF{not_any}): i.pdf",
        f"1 file (a TIFF or camera raw file{not_any}): c.tif",
        "1 file (a backup copy or an unfinished download): 00.png.bak",
        "1 file (a broken link): gone",
        f"1 file (a video{not_any}): d.mp4",
        f"1 file (an archive{not_any}): e.zip",
        "1 file (empty): nothing",
        "2 files (hidden): .f.jpg and 1 more",
        f"1 file (of an unknown format{not_any}): h.bin",
        f"2 files (text{not_any}): labels.csv and 1 more",
    ]


def unused(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("not used in")]


def test_every_file_is_used_or_accounted_for(kindling: Command) -> None:
    write("photos", 6)
    lines = strange_files("photos/cat")
    Path("photos/d.jpg").touch()
    result = kindling("fit", *FIT)
    assert result.code == 0, result.err
    outside = ["not used in photos: 1 file (outside of the class folders): d.jpg"]
    inside = [f"not used in photos: {line.replace('): ', '): cat/')}" for line in lines]
    assert unused(result.err) == sorted(inside + outside, key=lambda line: line.split("(")[1])
    names = {row["file"] for row in table(RUN / "split.csv") if row["class"] == "cat"}
    sniffed = {"whole.jpe", "no_suffix", "upload.tmp", "odd.dat", "LOUD.JPG"}
    assert names == {f"cat/{name}" for name in (*sniffed, *(f"0{number}.png" for number in range(6)))}
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "photos/cat")
    assert unused(result.err) == [f"not used in photos/cat: {line}" for line in lines]
    assert len(table(RUN / "predictions_cat.csv")) == 11


def test_unused_files_are_reported_in_python_too(capsys: pytest.CaptureFixture[str]) -> None:
    write("new", 2, "cat")
    lines = strange_files("new/cat")
    card = ModelCard("", ("a", "b"), (3, 4, 4))
    assert len(Predictor(lambda inputs: inputs, card).inputs("new/cat")) == 7
    assert unused(capsys.readouterr().err) == [f"not used in new/cat: {line}" for line in lines]


NAMES = ["train valid test", "training validation testing", "Train VAL Test", "train dev test", "training test"]
NAMES += ["training_set test_set", "Train-Data Val-Data Test-Data"]


@pytest.mark.parametrize("names", NAMES)
def test_common_names_of_splits_are_recognized(names: str) -> None:
    for number, name in enumerate(names.split()):
        write(f"photos/{name}", 4, first=20 * number)
    data = ImageFolderDataModule("photos")
    data.setup("fit")
    data.write_split(Path())
    data.setup("test")
    assert {str(file).split("/")[0] for file in data.tested_rows()} == {names.split()[-1]}
    canonical = {row["file"].split("/")[0]: row["split"] for row in table(Path("split.csv")) if row["split"] != "val"}
    assert canonical == {names.split()[0]: "train", names.split()[-1]: "test"}
    assert len(data.val) == (12 if len(names.split()) == 3 else 3)


@pytest.mark.slow
def test_images_of_several_depths_are_named(kindling: Command) -> None:
    random = np.random.default_rng(0)
    for name, base in (("a", 100), ("b", 1000)):
        Path("photos", name).mkdir(parents=True)
        for number in range(6):
            values = random.normal(base, 10, (9, 9))
            if name == "a":
                Image.fromarray(values.astype(np.uint8)).save(f"photos/a/{number}.png")
            else:
                Path(f"photos/b/{number}.png").write_bytes(png_16(values.astype(np.uint16)[..., None]))
    assert kindling("fit", *FIT, "--test_after_fit", "false").err.startswith(
        "4 of 8 training images have 16 bits per channel, the others 8; all images of b have 16 bits, so the bit depth "
        "may leak the class\n"
    )
    shutil.rmtree("photos/b")
    for number in range(6):
        Image.fromarray(random.normal(200, 10, (9, 9)).astype(np.uint8)).save(Path("photos/a", f"x{number}.png"))
    shutil.copytree("photos/a", "photos/c")
    for path in Path("photos/c").iterdir():
        path.write_bytes(path.read_bytes() + b"x")  # no copies
    assert kindling("fit", *FIT, "--test_after_fit", "false", "--run_name", "eight").code == 0
    Path("new.png").write_bytes(png_16(random.normal(1000, 10, (9, 9, 1)).astype(np.uint16)))
    line = "1 of 1 images has 16 bits, in a small part of the range"
    run = "runs/eight/version_0"
    assert line in kindling("predict", "--ckpt_path", run, "--data.predict", "new.png").err
    with redirect_stderr(io.StringIO()) as out:
        load(run).predict("new.png")
    assert line in out.getvalue()
    with redirect_stderr(io.StringIO()) as out:  # what the server prints to its log
        from_images([("new.png", Path("new.png").read_bytes()), ("a", Path("photos/a/x0.png").read_bytes())], load(run))
    assert "1 of 2 images has 16 bits" in out.getvalue()


def test_a_warning_names_folders_that_may_be_splits(capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("part_1", "part_2")):
        write(f"photos/{name}", 4, first=20 * number)
    ImageFolderDataModule("photos").setup("fit")
    line = "the classes of photos are part_1, part_2; if the classes are cat, dog, owl, rename the folders to train and"
    assert capsys.readouterr().err == f"{line} test\n"


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_images_of_a_small_range_are_scaled_the_same_everywhere(kindling: Command, channels: int) -> None:
    random = np.random.default_rng(0)
    for label, base in (("near", 1000), ("far", 1060)):
        Path("photos", label).mkdir(parents=True)
        for number in range(24):
            values = random.integers(base, base + 40, (8, 8, channels))
            values[0, 0] = 65535 if number == 0 else 0  # one pixel that saturates, and one that is dead in each
            Path("photos", label, f"{number:02}.png").write_bytes(png_16(values))
    result = kindling("fit", *FIT, "--trainer.max_epochs", 8)
    assert result.code == 0, result.err
    line = next(line for line in result.err.splitlines() if line.startswith("16-bit images"))
    low, high = (int(number.replace(",", "")) for number in re.findall(r" ([\d,]*\d)", line)[:2])
    assert low <= 1000
    assert 1090 < high < 1100
    assert json.loads((RUN / "test_metrics.json").read_text())["test/accuracy"] == 1
    assert torch.load(RUN / "checkpoints/best.ckpt")["ImageFolderDataModule"]["levels"] == [low, high]
    assert kindling("predict", "--ckpt_path", "best", "--data.predict", "photos/far").code == 0
    rows = table(RUN / "predictions_far.csv")
    predictor = load()
    path = "photos/far/05.png"
    probability = predictor.predict(path).probabilities[0, 0]
    assert float(rows[5]["far"]) == pytest.approx(probability, abs=1e-4) == pytest.approx(1, abs=0.1)
    if channels == 1:
        assert predictor.predict(Image.open(path)).probabilities[0, 0] == probability
    Path("other/test/near").mkdir(parents=True)  # of a camera with another range
    Path("other/test/near/0.png").write_bytes(png_16(random.integers(5000, 9000, (8, 8, channels))))
    line = f"1 of 1 images has 16 bits, mostly outside of the training range, {low:,} to {high:,}, such as"
    new = kindling("predict", "--ckpt_path", "best", "--data.predict", "other/test/near/0.png")
    assert f"{line} other/test/near/0.png: unlike in training" in new.err
    with redirect_stderr(io.StringIO()) as out:
        load().predict("other/test/near/0.png")
    assert line in out.getvalue()


def test_a_model_of_other_images_takes_the_whole_range_of_sixteen_bit_images() -> None:
    for label in ("a", "b"):
        Path("photos", label).mkdir(parents=True)
        for number in range(5):
            image = np.full((4, 4, 1), 257 * (10 + number))
            image[0] = 257
            Path("photos", label, f"{number}{label}.png").write_bytes(png_16(image))
    data = ImageFolderDataModule("photos")
    data.load_state_dict({"classes": ["a", "b"], "image_size": 4, "levels": None})
    data.setup("test")
    assert data.test.inputs.unique()[0] == 1
    assert data.test.inputs.unique()[-1] in (10, 11, 12, 13, 14)
    data = ImageFolderDataModule("photos")
    data.setup("fit")
    with pytest.raises(ValueError, match="photos is not the data that the checkpoint was trained on: other levels"):
        data.load_state_dict({"classes": ["a", "b"], "image_size": 4, "levels": None})


def test_circular_links_neither_repeat_images_nor_hang() -> None:
    write("photos", 4)
    write("elsewhere", 2, "cat", first=80)
    Path("photos/cat/up").symlink_to("..", target_is_directory=True)
    Path("photos/dog/here").symlink_to(".", target_is_directory=True)
    Path("photos/owl/far").symlink_to(Path("elsewhere/cat").absolute(), target_is_directory=True)
    data = ImageFolderDataModule("photos")
    data.setup("fit")
    data.write_split(Path())
    counts = Counter(row["class"] for row in table(Path("split.csv")))
    assert counts == {"cat": 4, "dog": 4, "owl": 6}


def test_what_takes_long_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write("photos", 5)
    ImageFolderDataModule("photos").setup("fit")
    assert capsys.readouterr().out == ""
    open_file: Any = Path.open
    monkeypatch.setattr("kindling.utils.console.PROGRESS_DELAY", 0.1)

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.05)
        return open_file(*args, **options)

    monkeypatch.setattr(Path, "open", slowly)
    ImageFolderDataModule("photos").setup("fit")
    assert capsys.readouterr().out.splitlines() == ["reading 15 images ...", "decoding 15 images ..."]


def rows(*splits: str, head: str = "file,class,split") -> str:
    lines = [f"{label}/0{number}.png,{label},{split}" for number, split in enumerate(splits) for label in COLORS]
    return "\n".join([head, *lines, ""])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "list.csv not found: .*--data.split"),
        (b"", "list.csv must be a CSV with columns file, class and split"),
        (rows("train", "val", "test").encode("utf-16"), "list.csv must be a CSV with columns file, class and split"),
        (rows("train", "val", "exam").encode(), "list.csv must be a CSV with columns file, class and split"),
        (rows("train", "train", "test").encode(), "list.csv has no images in val"),
        (rows("train", "train", "val").encode(), "list.csv has no images in test"),
        (rows("train", "val", "test").encode() + b"cat/x.png,cat,val\n", "list.csv lists .* not in photos: cat/x.png"),
        (rows("train", "val", "test").encode() + b"../x.png,cat,val\n", "list.csv lists files outside of .*: ../x.png"),
        (rows("train", "val", "test").encode() + b"/x.png,cat,val\n", "list.csv lists files outside of .*: /x.png"),
    ],
)
def test_an_invalid_split_file_is_refused(content: bytes | None, words: str) -> None:
    write("photos", 4)
    if content is not None:
        Path("list.csv").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        ImageFolderDataModule("photos", split="list.csv").setup("fit")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_split_file_elsewhere_is_used_only_where_it_is_typed(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("photos", 4)
    Path("list.csv").write_text(rows("train", "train", "val", "test"))
    assert kindling("fit", *FIT, "--data.split", "list.csv", "--test_after_fit", "false").code == 0
    (RUN / "checkpoints/best.ckpt").rename("alone.ckpt")
    monkeypatch.setenv("XDG_CONFIG_HOME", "another user")
    result = kindling("test", "--ckpt_path", "alone.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "alone.ckpt is from elsewhere, so the files in it are not read; add --data.data_dir" in result.err
    result = kindling("test", "--ckpt_path", "alone.ckpt", "--data.split", "list.csv", "--data.data_dir", "photos")
    assert result.code == 0, result.err


def test_a_split_file_may_come_from_a_spreadsheet() -> None:
    write("photos", 4)
    Path("list.csv").write_text(rows("train", "train", "val", "test"), encoding="utf-8-sig")
    data = ImageFolderDataModule("photos", split="list.csv")
    data.setup("fit")
    assert (len(data.train), len(data.val)) == (6, 3)


@pytest.mark.slow
def test_each_oddity_is_one_warning(kindling: Command) -> None:
    write("photos/train", 6)
    write("photos/test", 6, first=40)
    write("photos/train", 1, "owl", first=7)
    shutil.copy("photos/train/cat/00.png", "photos/test/cat/copy.png")
    shutil.copy("photos/train/dog/00.png", "photos/train/owl/copy.png")
    shutil.rmtree("photos/test/owl")
    result = kindling("fit", *FIT)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert any("test has no images of owl" in line for line in lines)
    assert any("more than one split: train/cat/00.png = test/cat/copy.png" in line for line in lines)
    assert any("more than one class: train/dog/00.png = train/owl/copy.png" in line for line in lines)


def test_copies_stay_together_and_each_class_is_in_each_split() -> None:
    numbers = {"many": 97, "some": 12, "three": 3}
    samples = [Sample(f"{label}/{n}", label, "train") for label, size in numbers.items() for n in range(size)]
    contents = [sample.file.encode() for sample in samples]
    samples += [sample._replace(file=f"copy of {sample.file}") for sample in samples[:50]]
    contents += contents[:50]
    sizes = {"test": 0.2, "val": 0.1}
    done = make_image_splits(samples, contents, sizes, seed=1)
    where = {sample.file: sample.split for sample in done}
    assert all(where[sample.file] == where[sample.file.removeprefix("copy of ")] for sample in done)
    counts = Counter((sample.label, sample.split) for sample in done if not sample.file.startswith("copy"))
    assert [counts["many", split] for split in ("train", "val", "test")] == [70, 8, 19]
    assert [counts["three", split] for split in ("train", "val", "test")] == [1, 1, 1]
    assert done == make_image_splits(samples, contents, sizes, seed=1)
    assert done != make_image_splits(samples, contents, sizes, seed=2)


def test_the_size_is_the_median_of_the_shorter_sides_up_to_224() -> None:
    sides = [10, 11, 12, 13, 40, 50]
    for label in ("cat", "dog"):
        for split in ("train", "val", "test"):
            (Path("photos") / split / label).mkdir(parents=True)
            for number, side in enumerate(sides if split == "train" else [90]):
                photo(label, number, (side, 60)).save(f"photos/{split}/{label}/{number}.png")
    assert ImageFolderDataModule("photos").input_shape == (3, int(median(sides)), 12)
    assert ImageFolderDataModule("photos", image_size=7).input_shape == (3, 7, 7)
    photo("cat", 1, (400, 300)).save("large.png")
    for path in Path("photos/train").glob("*/*"):
        shutil.copy("large.png", path)
    assert ImageFolderDataModule("photos").input_shape == (3, 224, 224)


def test_mean_and_std_are_those_of_the_training_images() -> None:
    write("photos", 12)
    data = ImageFolderDataModule("photos", image_size=12)
    data.setup("fit")
    data.write_split(Path())
    trained = [f"photos/{row['file']}" for row in table(Path("split.csv")) if row["split"] == "train"]
    pixels = np.concatenate([np.asarray(Image.open(path))[:, 1:13].reshape(-1, 3) for path in trained]) / 255
    assert data.mean == pytest.approx(pixels.mean(0), abs=1e-6)
    assert data.std == pytest.approx(pixels.std(0), abs=1e-6)
    assert ImageFolderDataModule("photos", image_size=12, memory_gb=0).mean == pytest.approx(data.mean)
    assert data.class_counts == (9, 9, 9)


def test_images_that_do_not_fit_in_memory_are_streamed_with_equal_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write("photos", 10)
    batches = []
    for memory in (4.0, 1e-6):
        seed_everything(1)
        data = ImageFolderDataModule("photos", memory_gb=memory, batch_size=8)
        data.setup("fit")
        assert isinstance(data.train.inputs, ImageFiles) == (memory < 1)
        assert data.num_workers == (os.cpu_count() if memory < 1 else 0)
        batches.append(list(data.train_dataloader()))
    for (ours, labels), (theirs, their_labels) in zip(*batches, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(labels, their_labels)


def test_only_needed_images_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    write("photos", 10)
    data = ImageFolderDataModule("photos")
    data.setup("fit")
    data.write_split(Path())
    split = {row["file"]: row["split"] for row in table(Path("split.csv"))}
    decoded = []
    read = Path.read_bytes

    def watched(path: Path) -> bytes:
        decoded.append(path.relative_to("photos").as_posix())
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", watched)
    data = ImageFolderDataModule("photos", split="split.csv")
    data.load_state_dict({"classes": ["cat", "dog", "owl"], "image_size": 12})
    data.setup("test")
    assert sorted(decoded) == sorted(file for file in split if split[file] == "test")
    assert data.tested_rows() == [file for file in split if split[file] == "test"]


def test_predictions_name_the_files_of_test_and_new_images() -> None:
    write("photos", 10)
    write("new", 3, first=90)
    data = ImageFolderDataModule("photos", predict="new")
    data.setup("fit")
    data.setup("test")
    tested = data.tested_rows()
    data.setup("predict")
    assert data.predicted_rows() == [f"{label}/{number}.png" for label in COLORS for number in (90, 91, 92)]
    assert data.tested_rows() == tested
    assert data.sample_details(0) == {"file": tested[0]}


class Watch(Callback):
    """Records the first batch of each stage as the model receives it."""

    def __init__(self) -> None:
        self.batches: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Batch, *arguments: Any) -> None:
        self.batches.setdefault("train", batch[0])

    def on_validation_batch_start(self, trainer: Trainer, module: Any, batch: Batch, *arguments: Any) -> None:
        self.batches.setdefault("val", batch[0])

    def on_test_batch_start(self, trainer: Trainer, module: Any, batch: Batch, *arguments: Any) -> None:
        self.batches.setdefault("test", batch[0])


@pytest.mark.parametrize("augments", [True, False])
def test_only_training_images_are_augmented(augments: bool) -> None:
    write("photos", 10)
    options: dict[str, Any] = {"flip": True, "crop": 0.5, "color": 0.3, "degrees": 10} if augments else {}
    data = ImageFolderDataModule("photos", **options)
    assert data.augments == augments
    watch = Watch()
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[watch]
    )
    model = MLPClassifier.for_data(data)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    kept = {
        name: {tuple((image / 255).flatten().tolist()) for image in getattr(data, name).inputs}
        for name in ("train", "val", "test")
    }
    for name, images in watch.batches.items():
        assert 0 <= images.min() <= images.max() <= 1
        as_kept = [tuple(image.flatten().tolist()) in kept[name] for image in images]
        assert as_kept == [not (augments and name == "train")] * len(images)
    assert watch.batches.keys() == kept.keys()


GIVEN = ("train", "val", "test")


@pytest.mark.slow
def test_training_does_not_resume_with_other_classes(kindling: Command) -> None:
    for split in GIVEN:
        write(f"photos/{split}", 6)
    assert kindling("fit", *FIT, "--test_after_fit", "false").code == 0
    before = (RUN / "checkpoints/last.ckpt").read_bytes()
    for split in GIVEN:
        Path(f"photos/{split}/cat").rename(f"photos/{split}/zebra")
    result = kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", 6)
    assert (result.code, result.err.count("kindling: error:")) == (1, 1)
    assert "photos is not the data that the checkpoint was trained on" in result.err
    assert "other classes (dog, owl, zebra, was cat, dog, owl); start a new run without --ckpt_path" in result.err
    assert (RUN / "checkpoints/last.ckpt").read_bytes() == before


def test_training_does_not_resume_with_another_image_size() -> None:
    write("photos", 6)
    data = ImageFolderDataModule("photos", image_size=20)
    data.setup("fit")
    learned = data.state_dict()
    data.load_state_dict({**learned})
    with pytest.raises(
        ValueError, match=r"photos is not the data .*: other image_size \(20, was 12\); start a new run"
    ):
        data.load_state_dict({**learned, "image_size": 12})
    assert data.state_dict() == learned


@pytest.mark.slow
def test_a_checkpoint_outside_of_its_run_is_not_tested_on_training_images(kindling: Command) -> None:
    write("photos", 10)
    assert kindling("fit", *FIT, "--test_after_fit", "false").code == 0
    Path("away").mkdir()
    shutil.copy(RUN / "checkpoints/best.ckpt", "away/best.ckpt")
    Path("away/split.csv").write_text("something else")  # what lies beside it is not of its run
    assert kindling("test", "--ckpt_path", "away/best.ckpt").code == 0
    held_out = [row["file"] for row in table(RUN / "split.csv") if row["split"] == "test"]
    assert sorted(row["file"] for row in table(Path("away/best/predictions.csv"))) == sorted(held_out)
    write("photos", 10, first=40)
    for command in ("test", "predict", "validate"):
        result = kindling(command, "--ckpt_path", "away/best.ckpt")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "photos has other images than" in result.err
        assert "--data.split" in result.err
    split = ["--data.split", RUN / "split.csv"]
    assert kindling("test", "--ckpt_path", "away/best.ckpt", *split).code == 0
    write("others/train", 4, first=60)
    write("others/test", 4, first=70)
    assert kindling("test", "--ckpt_path", "away/best.ckpt", "--data.data_dir", "others").code == 0
    assert len(table(Path("away/best/test_others/predictions.csv"))) == 12


def save_again(folder: str) -> None:
    """Save all PNG files of a folder with the same pixels and another content."""
    for path in Path(folder).rglob("*.png"):
        chunk = PngInfo()
        chunk.add_text("Software", "other")
        with Image.open(path) as image:
            image.copy().save(path, pnginfo=chunk)


def trained_on(folder: str, **options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(folder, **options)
    data.setup("fit")
    return data


def evaluated(fitted: dict[str, Any], folder: str, **options: Any) -> list[str]:
    """Return the test images of a folder for a model with a fitted state."""
    data = ImageFolderDataModule(folder, **options)
    data.load_state_dict(fitted)
    data.setup("test")
    return [*map(str, data.tested_rows())]


def test_drawn_splits_stay_those_of_training_if_the_images_were_saved_again() -> None:
    write("photos", 10)
    data = trained_on("photos")
    held_out = [sample.file for sample in data._samples if sample.split == "test"]
    save_again("photos")
    assert evaluated(data.state_dict(), "photos") == held_out


def test_a_folder_is_new_if_none_of_its_images_was_trained_on_whatever_their_names(
    capfd: pytest.CaptureFixture[str],
) -> None:
    write("photos", 10)
    data = trained_on("photos")
    fitted = data.state_dict()
    data.write_split(Path())
    Path("run.json").touch()  # this folder is that of the run
    held_out = [sample.file for sample in data._samples if sample.split == "test"]
    write("others", 10, first=50)
    files = [f"{label}/{number:02}.png" for label in COLORS for number in range(10)]
    for label in COLORS:  # other images of the same names
        for number in range(10):
            Path(f"others/{label}/{50 + number}.png").rename(f"others/{label}/{number:02}.png")
    for options, source in (
        ({"split": "split.csv"}, "those in split.csv"),
        ({}, "the training images"),
    ):  # in its run, and outside
        assert sorted(evaluated(fitted, "others", **options)) == sorted(held_out)
        warning = f"the images of others have the file names of {source}, but other contents: only one split is used"
        assert warning in capfd.readouterr().err
        assert sorted(evaluated(fitted, "photos", **options)) == sorted(held_out)
        assert capfd.readouterr().err == ""
    Path("own").mkdir()
    shutil.copy("split.csv", "own/split.csv")  # a file of the user's own says which images to test
    assert sorted(evaluated(fitted, "others", split="own/split.csv")) == sorted(held_out)
    assert capfd.readouterr().err == ""
    Path("others/cat/00.png").unlink()
    message = (
        "split.csv lists files that are not in others: cat/00.png; if its images are others than those of training"
    )
    with pytest.raises(ValueError, match=f"^{message}, move them to others/test$"):
        evaluated(fitted, "others", split="split.csv")
    assert sorted(evaluated(fitted, "others")) == files[1:]
    assert "others is not the folder that the model was trained on: all of its 29" in capfd.readouterr().err
    for sample in data._samples:  # the validation images of training are still there
        if sample.split == "train":
            (Path("photos") / sample.file).unlink()
    with pytest.raises(ValueError, match=r"split.csv lists files that are not in photos"):
        evaluated(fitted, "photos", split="split.csv")
    Path("all").mkdir()
    shutil.move("others", "all/test")
    assert len(evaluated(fitted, "all", split="split.csv")) == len(evaluated(fitted, "all")) == 29


def fit_in_given_splits(kindling: Command, splits: str) -> None:
    """Train in split folders, and copy the checkpoint out of its run."""
    for number, split in enumerate(splits.split()):
        write(f"photos/{split}", 10, first=20 * number)
    result = kindling("fit", *FIT, "--test_after_fit", "false")
    assert result.code == 0, result.err
    Path("away").mkdir()
    shutil.copy(RUN / "checkpoints/best.ckpt", "away/best.ckpt")


def test_the_test_of_a_run_with_own_splits_and_unread_labels_is_its_own(kindling: Command) -> None:
    write("photos", 10)
    files = [(path.relative_to("photos"), path.parent.name) for path in sorted(Path("photos").rglob("*.png"))]
    splits = ["test" if number % 5 == 0 else "val" if number % 5 == 1 else "train" for number in range(len(files))]
    rows = [f"{file},{label},{split}" for (file, label), split in zip(files, splits, strict=True)]
    Path("mine.csv").write_text("\n".join(["file,class,split", *rows]))
    Path("labels.csv").write_text("\n".join(["file,class", *(f"{file},{label}" for file, label in files)]))
    result = kindling("fit", *FIT, "--data.split", "mine.csv", "--data.labels", "labels.csv")
    assert result.code == 0, result.err
    for options in ([], ["--data.split", "mine.csv"], ["--data.split", RUN / "split.csv"]):
        result = kindling("test", "--ckpt_path", RUN, *options)
        assert (result.code, "differ" in result.out) == (0, False), result.out
    assert not list(RUN.glob("test_*/"))


def test_all_images_of_a_new_folder_are_tested_after_training_in_split_folders(kindling: Command) -> None:
    fit_in_given_splits(kindling, "train val test")
    write("others", 4, first=90)
    of_run = kindling("test", "--ckpt_path", "best", "--data.data_dir", "./photos")
    assert (of_run.code, "differs" in of_run.out) == (0, False)
    results = [RUN / name for name in ("predictions.csv", "test_metrics.json", "report.html")]
    before = [path.read_bytes() for path in results]
    events = [path for path in RUN.rglob("*") if "tfevents" in path.name]
    result = kindling("test", "--ckpt_path", "best", "--data.data_dir", "others")
    assert result.code == 0, result.err
    assert "others is not the folder that the model was trained on: all of its 12 images are used" in result.err
    folder = RUN / "test_others"
    assert (
        f"--data.data_dir differs from the run: the results are in {folder}, and those of the run are unchanged\n"
        in result.out
    )
    assert len(table(folder / "predictions.csv")) == 12
    assert {path.name for path in folder.iterdir()} >= {path.name for path in results}
    assert "12 test samples of ImageFolderDataModule in others ·" in (folder / "report.html").read_text()
    assert "test samples of ImageFolderDataModule in ./photos ·" in results[2].read_text()
    assert before == [path.read_bytes() for path in results]  # those of the run
    assert events == [path for path in RUN.rglob("*") if "tfevents" in path.name]
    result = kindling("validate", "--ckpt_path", "best", "--data.data_dir", "others")
    assert (result.code, result.err.splitlines()[-1].count("others has no validation images: add a folder val/")) == (
        1,
        1,
    )
    shutil.move("others", "more/train")
    write("more/val", 4, first=80)
    result = kindling("test", "--ckpt_path", "best", "--data.data_dir", "more")
    assert (result.code, result.err.count("more has no test images: add a folder test/")) == (1, 1)


@pytest.mark.slow
def test_an_image_that_was_trained_on_is_not_evaluated_wherever_it_is(kindling: Command) -> None:
    fit_in_given_splits(kindling, "train test")

    def refused(command: str, *options: object, number: str, file: str) -> None:
        result = kindling(command, "--ckpt_path", "best", *options)
        line = result.err.splitlines()[-1]
        assert result.code == 1, result.out
        assert f"the model was trained on {number}" in line
        assert f"such as {file}: remove them, or use unseen images" in line

    trained = [row["file"] for row in table(RUN / "split.csv") if row["split"] == "train"]
    number = f"{len(trained)} of the 30 test images of photos/train"
    refused("test", "--data.data_dir", "photos/train", number=number, file=trained[0].removeprefix("train/"))
    Path("photos", trained[0]).rename("photos/test/owl/new.png")
    shutil.copy(Path("photos", trained[1]), "photos/test/owl/newer.png")
    options = ["--data.split", "null"]
    refused("test", *options, number="2 of the 32 test images of photos", file="test/owl/new.png")
    refused("predict", *options, number="2 of the 32 test images of photos", file="test/owl/new.png")
    shutil.move("photos/test", "others/val")
    write("others/train", 4, first=90)
    refused("validate", "--data.data_dir", "others", number="2 of the 32 val images of others", file="val/owl/new.png")


def test_copies_in_given_splits_are_tested_with_a_warning(kindling: Command) -> None:
    write("photos/train", 10)
    write("photos/test", 10, first=20)
    shutil.copy("photos/train/cat/00.png", "photos/test/cat/copy.png")
    shutil.copy("photos/train/cat/00.png", "photos/train/cat/same.png")
    result = kindling("fit", *FIT)
    assert result.code == 0, result.err
    assert (
        "the same image in more than one split: train/cat/00.png = train/cat/same.png = test/cat/copy.png" in result.err
    )
    assert len(table(RUN / "predictions.csv")) == 31


def test_an_image_with_a_copy_in_a_given_split_is_refused_elsewhere() -> None:
    write("photos/train", 10)
    write("photos/test", 4, first=20)
    source = Path("photos/train/cat/00.png")
    shutil.copy(source, "photos/test/cat/copy.png")
    fitted = trained_on("photos").state_dict()
    resumed = trained_on("photos")
    resumed.load_state_dict(fitted)
    assert resumed.state_dict() == fitted
    assert "test/cat/copy.png" in evaluated(fitted, "photos")
    shutil.copytree("photos/test", "others/test")
    Path("others/test/cat/copy.png").rename("others/test/cat/other.png")
    message = r"^the model was trained on 1 of the 13 test images of {}, such as test/cat/{}.png: remove them"
    with pytest.raises(ValueError, match=message.format("others", "other")):
        evaluated(fitted, "others")
    Path("photos/test/cat/copy.png").unlink()
    source.rename("photos/test/cat/00.png")
    with pytest.raises(ValueError, match=message.format("photos", "00")):
        evaluated(fitted, "photos")


@pytest.mark.slow
def test_a_drawn_validation_split_stays_that_of_training(kindling: Command) -> None:
    fit_in_given_splits(kindling, "train test")
    assert kindling("validate", "--ckpt_path", "away/best.ckpt").code == 0
    write("photos/test", 3, first=60)
    assert kindling("validate", "--ckpt_path", "away/best.ckpt").code == 0
    write("photos/train", 10, first=70)
    result = kindling("validate", "--ckpt_path", "away/best.ckpt")
    assert result.code == 1
    assert "so training images could be validated: set --data.split to the split.csv of its run" in result.err
    assert kindling("test", "--ckpt_path", "away/best.ckpt").code == 0


def test_large_files_are_the_same_if_their_size_beginning_middle_and_end_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    for kind in ("bmp", "jpg", "png"):
        first, other = Path(f"1.{kind}"), Path(f"2.{kind}")
        Image.fromarray(noise).save(first, quality=100)
        assert first.stat().st_size > 300_000
        shutil.copy(first, other)
        assert inspect(str(first)) == inspect(str(other))
        changed = noise.copy()
        changed[30, 100:110] = 0
        Image.fromarray(changed).save(other, quality=100)
        assert inspect(str(first)).digest != inspect(str(other)).digest


def test_prepared_images_are_no_image_folder(kindling: Command) -> None:
    Path("shards/train").mkdir(parents=True)
    Path("shards/kindling.json").write_text("{}")
    result = kindling("fit", "--model", "CNNClassifier", "--data", "ImageFolderDataModule", "--data.data_dir", "shards")
    assert result.code == 1
    assert "use --data StreamingDataModule --data.path shards" in result.err


def test_histograms_of_16_bit_images_take_little_memory() -> None:
    values = np.random.default_rng(0).integers(1000, 2000, (8, 8, 1))
    for number in range(100):
        Path(f"{number}.png").write_bytes(png_16(values))
    tracemalloc.start()
    assert find_levels([f"{number}.png" for number in range(100)]) == [values.min(), values.max()]
    assert tracemalloc.get_traced_memory()[1] < 20e6  # each histogram has 0.5 MB
    tracemalloc.stop()


def test_a_split_file_names_no_other_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kindling.data.images.split_file.PurePath", PureWindowsPath)  # as on Windows
    for name in ("C:/other/x.png", "C:x.png", "..\\x.png"):
        Path("list.csv").write_text(rows("train", "val", "test") + f"{name},cat,val\n")
        with pytest.raises(ValueError, match=r"^list.csv lists files outside of the data folder: "):
            read_image_split(Path("list.csv"))


def test_a_resumed_run_does_not_validate_on_images_it_was_trained_on(kindling: Command) -> None:
    fit_in_given_splits(kindling, "train val test")
    shutil.copy(sorted(Path("photos/train/owl").iterdir())[0], "photos/val/owl/new.png")
    result = kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        "kindling: error: the model was trained on 1 of the 31 val images of photos, such as val/owl/new.png: remove "
        "them, or use unseen images"
    )
