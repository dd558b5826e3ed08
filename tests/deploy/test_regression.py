"""Regression models from Python, as exported files and in TorchServe archives."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from numbers_data import BrightnessDataModule, HousesDataModule, WavesDataModule
from PIL import Image

from conftest import Command, Train
from kindling import MLPRegressor, load
from kindling.deploy.card import ModelCard
from kindling.deploy.export_wrapper import ExportWrapper
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.predictor import RegressionPrediction
from kindling.deploy.verify import compare_outputs

pytestmark = pytest.mark.usefixtures("quick_proof")

RUN = Path("runs/numbers/version_0")
FIT = "--model MLPRegressor --model.optimizer.lr 0.01 --trainer.max_epochs 3 --run_name numbers --data numbers_data."


def options(data: str) -> list[str]:
    return f"{FIT}{data}DataModule".split()


def test_load_predicts_what_the_command_predicts(kindling: Command, trained: Train) -> None:
    trained(*options("Waves"))
    assert kindling("predict", "--ckpt_path", RUN).code == 0
    inputs, _ = WavesDataModule().load("test")
    model = load(RUN)
    found = model.predict(inputs)
    assert isinstance(found, RegressionPrediction)
    assert (found.values.shape, found.values.dtype) == ((400,), np.float32)
    np.testing.assert_allclose(found.values, pd.read_csv(RUN / "predictions.csv").prediction, rtol=1e-5)
    assert found.values.std() > 20  # in the units of the targets
    assert model.predict(inputs[0].tolist()).values.shape == (1,)
    assert repr(model) == "Predictor: MLPRegressor, takes numbers of shape (6,), predicts numbers"


def test_load_takes_rows_of_a_table(trained: Train) -> None:
    trained(*options("Houses"))
    data, model = HousesDataModule(), load(RUN)
    rows = data.rows("test")[:5]
    table = pd.read_csv(RUN / "predictions.csv")
    for samples in (rows, pd.DataFrame(rows)):
        np.testing.assert_allclose(model.predict(samples).values, table.prediction[:5], rtol=1e-5)
    card = model.card
    assert (card.task, card.target, card.unit, card.classes) == ("regression", "price", "€", ())
    assert card.metrics == json.loads((RUN / "test_metrics.json").read_text())


def test_load_takes_images(trained: Train) -> None:
    trained(*options("Brightness"))
    images, _ = BrightnessDataModule().load("test")
    Image.fromarray(images[3, 0].numpy()).save("photo.png")
    model = load(RUN)
    expected = pd.read_csv(RUN / "predictions.csv").prediction[3]
    for sample in ("photo.png", images[3], images[3, 0].numpy()):
        assert model.predict(sample).values == pytest.approx([expected], rel=1e-5)


def test_load_says_what_it_does_not_load(kindling: Command) -> None:
    fit = "--model modules.MultiLabel --data modules.MultiLabelDataModule --trainer.max_epochs 1 --run_name labels"
    assert kindling("fit", *fit.split()).code == 0
    with pytest.raises(ValueError, match="MultiLabel is neither a classifier nor a regression model: load it with M"):
        load()


@pytest.mark.parametrize("data", ["Houses", pytest.param("Brightness", marks=pytest.mark.slow)])
def test_every_format_predicts_what_the_checkpoint_does(kindling: Command, trained: Train, data: str) -> None:
    trained(*options(data))
    predictor = load(RUN)
    samples = torch.rand(50, *predictor.card.input_shape)
    expected = predictor.predict(samples).values
    folder = RUN / "export"
    for format in ("onnx", "torch_export", "torchscript", "torchserve"):
        result = kindling("export", "--format", format)
        assert result.code == 0, result.err
        assert "relative to the spread of the targets, standard deviation" in " ".join(result.out.split())
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    cards = [{name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}]
    found = session.run(["predictions"], {"inputs": samples.numpy()})
    extra = {"card.json": ""}
    found += torch.export.load(folder / "model.pt2", extra_files=extra).module()(samples)
    cards.append(json.loads(extra["card.json"]))
    with zipfile.ZipFile(folder / "model.mar") as archive:
        archive.extract("model.pt", "archive")
    for file in (folder / "model.pt", Path("archive/model.pt")):
        extra = {"card.json": ""}
        found += torch.jit.load(file, _extra_files=extra)(samples)  # type: ignore[no-untyped-call]
        cards.append(json.loads(extra["card.json"]))
    assert len(found) == len(cards) == 4
    for values, card in zip(found, cards, strict=True):
        np.testing.assert_allclose(np.asarray(values), expected, rtol=1e-4, atol=1e-4)
        assert ModelCard.from_dict(card) == predictor.card
    np.testing.assert_allclose(load_onnx(folder / "model.onnx").predict(samples).values, expected, rtol=1e-4, atol=1e-4)


def test_the_archive_answers_with_numbers(kindling: Command, trained: Train) -> None:
    trained(*options("Waves"))
    assert kindling("export", "--format", "torchserve").code == 0
    shutil.unpack_archive(RUN / "export/model.mar", "unpacked", "zip")
    program = (
        "import json; from types import SimpleNamespace as N; from torchserve_handler import Handler; h = Handler();"
        "import kindling; assert 'unpacked' in kindling.__file__;"
        "h.initialize(N(system_properties={'model_dir': '.'}));"
        "data = [{'body': {'inputs': [[0.5] * 6, [0] * 6]}}, {'body': {'inputs': [1]}}, {'body': [[1] * 6]}];"
        "print(json.dumps(h.handle(data, None)))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    printed = subprocess.run(command, cwd="unpacked", capture_output=True, text=True, check=True)
    first, second, third = json.loads(printed.stdout)
    expected = load().predict([[0.5] * 6, [0] * 6, [1] * 6]).values.tolist()
    found = [each["value"] for each in first["predictions"] + third["predictions"]]
    assert found == pytest.approx(expected, rel=1e-6)
    assert "must have the shape (6)" in second["error"]


def regressor(mean: float, std: float) -> tuple[MLPRegressor, ExportWrapper]:
    torch.manual_seed(0)
    model = MLPRegressor(input_shape=(6,))
    model.target_mean.fill_(mean)
    model.target_std.fill_(std)
    return model, ExportWrapper(model).eval()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1e-6), (3e5, 8e4), (0.0, 1.0), (2e9, 10.0)])
def test_differences_are_measured_against_the_spread_of_the_targets(mean: float, std: float) -> None:
    """A thousandth of the spread is too much, whether the targets are millionths or house prices."""
    _, wrapper = regressor(mean, std)
    samples = torch.randn(64, 6)

    def off(share: float) -> Any:
        return lambda inputs: tuple(output + share * std for output in wrapper(inputs))

    with torch.inference_mode():
        compare_outputs(wrapper, off(1e-5 if mean < 1e9 else 0), (samples,), (1, 64))
        if mean < 1e9:  # float32 has only multiples of 128 there
            with pytest.raises(ValueError, match="the exported output predictions differs from the checkpoint by"):
                compare_outputs(wrapper, off(1e-2), (samples,), (1, 64))


@pytest.mark.parametrize(("old", "task"), [({"classifies": True}, "classification"), ({"classifies": False}, None)])
def test_cards_of_earlier_versions_load(old: dict[str, Any], task: str | None) -> None:
    earlier = {"model": "MLPClassifier", "classes": ["a", "b"], "input_shape": [4], "columns": None, "levels": None}
    card = ModelCard.from_dict({**earlier, "metrics": {"test/accuracy": 0.5}, "kindling": "0.1.0", **old})
    assert (card.task, card.classes, card.input_shape) == (task, ("a", "b"), (4,))
    assert ModelCard.from_dict(json.loads(json.dumps(card.as_dict()))) == card


def test_models_of_other_kinds_are_exported_but_not_served(kindling: Command) -> None:
    fit = "--model modules.MultiLabel --data modules.MultiLabelDataModule --trainer.max_epochs 1 --run_name labels"
    assert kindling("fit", *fit.split()).code == 0
    result = kindling("export", "--format", "torchserve")
    assert result.code == 1
    assert (
        "a .mar file is for classifiers and regression models with one input, and MultiLabel is neither" in result.err
    )
    assert kindling("export").code == 0
    result = kindling("serve", "--ckpt_path", "runs/labels/version_0/export/model.onnx", "--port", "0")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "model.onnx is neither a classifier nor a regression model: run it with onnxruntime" in result.err
