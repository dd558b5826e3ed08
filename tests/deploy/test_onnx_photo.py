"""The ONNX file of a model of images that takes photographs: compared with Pillow and with `kindling predict`."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from conftest import TINY, Command, Train
from kindling import load
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.onnx_graph import OPSET
from kindling.deploy.onnx_photo import REVERSED, add_decoding
from kindling.utils.inputs import fit_image

pytestmark = pytest.mark.usefixtures("quick_proof")

RUN = Path("runs/photos/version_0")
FILE = RUN / "export/model.onnx"
PAGE = Path(__file__).parents[2] / "docs/export.md"
CNN = "--model CNNClassifier --model.channels [4,8] --model.hidden 8 --model.optimizer.lr 0.01".split()
FIT_PHOTOS = (
    "--data ImageFolderDataModule --data.data_dir photos --data.image_size 40 --data.batch_size 16 "
    "--trainer.max_epochs 4 --run_name photos"
).split()
MULTILABEL = (
    "--model CNNMultiLabelClassifier --model.channels [4] --data.labels labels.csv --data.target kinds "
    "--data.task multilabel"
).split()
NUMBERS = (
    "--model CNNRegressor --model.channels [4] --data.labels labels.csv --data.target light --data.task regression"
).split()
TRANSFER = "--model TransferClassifier --model.backbone squeezenet1_1 --model.weights none".split()


def cut_out(number: int) -> Image.Image:
    """Return a part of one of two photographs, scaled; each third in gray, each fifth with transparency."""
    random = np.random.default_rng(number)
    photo = Image.fromarray(load_sample_images().images[number % 2])
    left, top = int(random.integers(0, 400)), int(random.integers(0, 250))
    part = photo.crop((left, top, int(random.integers(left + 60, 640)), int(random.integers(top + 60, 427))))
    scale = np.exp(random.uniform(np.log(0.2), np.log(8)))
    image = part.resize([max(1, int(scale * side)) for side in part.size])
    if number % 3 == 0:
        image = image.convert("L")
    if number % 5 == 0:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def save(image: Image.Image, path: Path, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def save_photos(folder: Path, numbers: range) -> None:
    """Write photographs in subfolders, one per class: JPEG, or PNG if they have transparency."""
    for number in numbers:
        image = cut_out(number)
        suffix = "png" if image.has_transparency_data else "jpg"
        save(image, folder / ("temple", "flower")[number % 2] / f"{number}.{suffix}", 1 + number % 8)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs to train on, `photos`, and a label file for them."""
    folder = tmp_path_factory.mktemp("photographs")
    save_photos(folder / "photos", range(40))
    files = sorted(path.relative_to(folder / "photos").as_posix() for path in (folder / "photos").rglob("*.*"))
    kinds = ["temple|large" if index % 3 else "flower" for index in range(len(files))]
    light = [f"{index % 7 * 20} lux" for index in range(len(files))]
    pd.DataFrame({"file": files, "kinds": kinds, "light": light}).to_csv(folder / "labels.csv", index=False)
    return folder


def train(trained: Train, photos: Path, *options: str) -> None:
    shutil.copytree(photos, ".", dirs_exist_ok=True)
    where = ["photos", "labels.csv"]
    absolute = [str(photos / option) if option in where else option for option in (*options, *FIT_PHOTOS[:-1])]
    trained(*absolute, "photos")


def run_file(files: list[Path], path: Path = FILE) -> NDArray[np.float32]:
    """Return the first output of a file for photographs, as a client computes it: see docs/export.md."""
    session = onnxruntime.InferenceSession(path)
    found = []
    for file in files:
        with Image.open(file) as photo:
            orientation = np.array(photo.getexif().get(0x0112, 1), dtype=np.int32)
            pixels = np.asarray(photo.convert("RGBA" if photo.has_transparency_data else "RGB"))
        found.append(session.run(None, {"image": pixels, "orientation": orientation})[0])
    return np.concatenate(found)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 50), (3, 5, 3)])
def test_the_operators_decode_as_pillow_does(shape: tuple[int, int, int]) -> None:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    taken, returned = ([helper.make_tensor_value_info(name, kind, ["batch", *shape])] for name in ("x", "orientation"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["orientation"])], "network", taken, returned)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    assert add_decoding(model, shape) == "kindling/network/x"
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [each.name for each in session.get_inputs()] == ["image", "orientation_"]
    photo, random = Image.fromarray(load_sample_images().images[0]), np.random.default_rng(0)
    for number, size in enumerate([(1, 1), (3, 70), (90, 2), (32, 32), (37, 91), (91, 37), (400, 300), (64, 64)]):
        pixels = np.asarray(photo.resize(size))
        if number % 3 == 0:
            pixels = np.concatenate([pixels, random.integers(0, 256, (*size[::-1], 1), np.uint8)], axis=2)
        for orientation in range(10):
            image = Image.fromarray(pixels)
            image.getexif()[0x0112] = orientation
            [found] = session.run(None, {"image": pixels, "orientation_": np.array(orientation, np.int32)})
            difference = np.abs(255 * found[0] - fit_image(image, shape).numpy())
            assert (difference.max() < 1.01, difference.mean() < 0.5) == (True, True), (size, orientation)


@pytest.mark.parametrize("number", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_a_file_predicts_photographs_as_the_command_does(
    kindling: Command, trained: Train, photos: Path, number: int
) -> None:
    train(trained, photos, *CNN)
    result = kindling("export", "--raw")
    assert result.code == 0, result.err
    assert "64 made-up photographs, then 8 test images" in " ".join(result.out.split())
    save_photos(Path("new"), range(1000, 1000 + number))
    assert kindling("predict", "--ckpt_path", RUN, "--data.predict", "new").code == 0
    expected = pd.read_csv(RUN / "predictions_new.csv")
    found = run_file([Path("new", file) for file in expected["file"]])
    names = load(RUN).card.classes
    assert len(found) == number
    assert np.abs(found - expected[[*names]].to_numpy()).max() < 0.01
    assert [names[index] for index in found.argmax(1)] == expected["prediction"].tolist()
    assert len({*expected["prediction"]}) == 2
    served = load_onnx(FILE).predict("new")
    np.testing.assert_allclose(served.probabilities, expected[[*names]], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [MULTILABEL, NUMBERS, TRANSFER], ids=["multilabel", "numbers", "transfer"])
def test_each_task_takes_photographs(kindling: Command, trained: Train, photos: Path, options: list[str]) -> None:
    train(trained, photos, *options)
    result = kindling("export", "--raw")
    assert result.code == 0, result.err
    files = sorted(Path("photos").rglob("*.*"))
    predicted = load(RUN).predict(files)
    expected = predicted.values if options is NUMBERS else predicted.probabilities
    scale = 40.0 if options is NUMBERS else 1.0
    assert np.abs(run_file(files) - expected).max() < 0.01 * scale
    assert np.ptp(expected) > 0.02 * scale


@pytest.mark.slow
def test_an_ensemble_takes_photographs(kindling: Command, trained: Train, photos: Path) -> None:
    train(trained, photos, *CNN)
    members = ["--model", "EnsembleClassifier", "--model.checkpoints", f"[{RUN}, {RUN}]"]
    assert kindling("fit", *members, *FIT_PHOTOS[:-1], "ensemble").code == 0
    assert kindling("export", "--raw", "--out", "ensemble.onnx").code == 0
    files = sorted(Path("photos").rglob("*.*"))
    expected = load("runs/ensemble").predict(files).probabilities
    assert np.abs(run_file(files, Path("ensemble.onnx")) - expected).max() < 0.01


def test_grayscale_models_take_photographs_and_a_file_that_differs_is_not_written(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("--model", "CNNClassifier", "--model.channels", "[4]", *TINY_DIGITS)
    save(cut_out(1), Path("photo.jpg"), 6)
    with monkeypatch.context() as patch:
        patch.setattr("kindling.deploy.onnx_photo.REVERSED", [pair[::-1] for pair in REVERSED])
        result = kindling("export", "--raw")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "differs from the checkpoint by" in result.err
    assert "the limit is 0.01: leave out --raw" in result.err
    file = Path("runs/digits/version_0/export/model.onnx")
    assert not file.parent.exists()
    assert kindling("export", "--raw", "true").code == 0
    expected = load("best").predict("photo.jpg").probabilities
    np.testing.assert_allclose(run_file([Path("photo.jpg")], file), expected, rtol=0, atol=0.01)


TINY_DIGITS = (
    "--data MNISTDataModule --data.source sample --trainer.limit_train_batches 3 --trainer.max_epochs 1 "
    "--run_name digits"
).split()


def test_other_models_and_formats_are_refused(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    for options, message in (
        ([], "--raw is for models of gray or RGB images, and of tables; MLPClassifier takes inputs of shape (20,)"),
        (["--format", "torch_export"], "--raw works only with --format onnx, got torch_export"),
    ):
        result = kindling("export", "--raw", *options)
        assert (result.code, result.err) == (1, f"kindling: error: {message}\n")
    assert not Path("runs/tiny/version_0/export").exists()


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_node_predicts_what_the_command_predicts(kindling: Command, trained: Train, photos: Path, package: str) -> None:
    node = shutil.which("node")
    folders = os.environ.get("NODE_PATH", "").split(os.pathsep)
    if not (node and any(Path(folder, package).is_dir() and Path(folder, "sharp").is_dir() for folder in folders)):
        pytest.skip(f"needs Node and the packages {package} and sharp in NODE_PATH")
    train(trained, photos, *CNN)
    assert kindling("export", "--raw").code == 0
    [program] = [block for block in re.findall(r"```javascript\n(.*?)```", PAGE.read_text(), re.S) if "sharp" in block]
    save_photos(Path("new"), range(1000, 1010))
    files = sorted(Path("new").rglob("*.*"))
    expected: Any = load(RUN).predict(files)
    for file, probabilities in zip(files, expected.probabilities, strict=True):
        text = program.replace("onnxruntime-node", package).replace("new_photos/0.png", file.as_posix())
        text = text.replace("[...probabilities.data]", "JSON.stringify([...probabilities.data])")
        result = subprocess.run([node, "-e", text], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        np.testing.assert_allclose(json.loads(result.stdout), probabilities, rtol=0, atol=0.01)
