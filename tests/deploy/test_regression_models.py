"""Regression models from Python, as exported files and in TorchServe archives."""

import io
import json
import shutil
import subprocess
import sys
import threading
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
from servers import serving

from conftest import Command, Train
from kindling import MLPRegressor, load
from kindling.deploy.export_wrapper import ExportWrapper
from kindling.deploy.model_card import ModelCard
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.predictor import RegressionPrediction
from kindling.deploy.responses import to_values
from kindling.deploy.serve import describe
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
    assert found.values.shape == (400,)
    assert found.values.dtype == np.float32
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
        assert "relative to the spread of the targets, scale" in " ".join(result.out.split())
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    cards = [{name: json.loads(text) for name, text in metadata.items() if name != "features"}]
    if data == "Houses":  # its ONNX file takes raw rows
        rows = pd.DataFrame(HousesDataModule().rows("test"))
        inputs = {
            name: rows[name].to_numpy(dtype=object if name == "plan" else None) for name in ("size", "age", "plan")
        }
        assert [each.name for each in session.get_inputs()] == [*inputs]
        predicted = session.run(["predictions"], inputs)[0]
        np.testing.assert_allclose(predicted, predictor.predict(rows).values, rtol=1e-4)
        found = [load_onnx(folder / "model.onnx").predict(samples).values]
    else:
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


@pytest.mark.slow
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


def test_models_of_other_kinds_are_exported_but_neither_loaded_nor_served(kindling: Command) -> None:
    fit = "--model modules.MultiLabel --data modules.MultiLabelDataModule --trainer.max_epochs 1 --run_name labels"
    assert kindling("fit", *fit.split()).code == 0
    with pytest.raises(ValueError, match="MultiLabel is neither a classifier nor a regression model: load it with M"):
        load()
    assert kindling("export").code == 0
    for command, message in (
        (
            "export --format torchserve",
            "regression models with one input, and MultiLabel is neither",
        ),
        (
            "serve --port 0 --ckpt_path runs/labels/version_0/export/model.onnx",
            "onnx is neither a classifier nor",
        ),
    ):
        result = kindling(*command.split())
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert message in result.err


@pytest.mark.slow
def test_the_server_answers_with_numbers(trained: Train) -> None:
    trained(*options("Houses"))
    predictor, rows = load(RUN), HousesDataModule().rows("test")
    with serving("--ckpt_path", RUN) as server:
        status, found = server.predict({"rows": rows[:3]})
        assert status == 200, found
        values = [each.pop("value") for each in found["predictions"]]
        assert found == {"predictions": [{}, {}, {}]}
        assert values == pytest.approx(predictor.predict(rows[:3]).values.tolist(), rel=1e-6)
        answers: dict[int, Any] = {}

        def ask(number: int) -> None:
            answers[number] = server.predict({"rows": rows[number : number + 1 + number % 3]}, "/predict?top=3")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, (status, found) in answers.items():
            expected = predictor.predict(rows[number : number + 1 + number % 3]).values.tolist()
            assert status == 200
            assert [each["value"] for each in found["predictions"]] == pytest.approx(expected, rel=1e-5)
        info = server.ask("GET", "/info")[1]
        assert (info["task"], info["target"], info["unit"], info["classes"]) == ("regression", "price", "€", [])
        assert info["metrics"] == predictor.card.metrics
        assert server.predict({"inputs": [[0.0] * 5]})[0] == 200
        assert server.predict({"rows": [{"size": 3}]})[0] == 400


@pytest.mark.slow
def test_the_server_computes_with_an_exported_file(kindling: Command, trained: Train) -> None:
    trained(*options("Brightness"))
    assert kindling("export").code == 0
    images, _ = BrightnessDataModule().load("test")
    file = io.BytesIO()
    Image.fromarray(images[3, 0].numpy()).save(file, "PNG")
    with serving("--ckpt_path", RUN / "export/model.onnx") as server:
        status, found = server.predict(file.getvalue())
        assert status == 200, found
    assert [found["predictions"][0]["value"]] == pytest.approx(load(RUN).predict(images[3]).values.tolist(), rel=1e-4)


def test_values_have_the_digits_that_tell_them_apart() -> None:
    values = torch.tensor([0.1, 152.3, -1e-9, 3.0, 16777217.0, 1 / 3])
    found = [each["value"] for each in to_values(values)]
    assert found[:4] == [0.1, 152.3, -1e-9, 3.0]
    assert torch.equal(torch.tensor(found), values)


@pytest.mark.parametrize(
    ("card", "text"),
    [
        (
            ModelCard("Net", (), (1,), task="regression", unit="€", metrics={"test/mae": 1234.5}),
            "Net, test MAE 1,234 €",
        ),
        (ModelCard("Net", (), (1,), task="regression"), "Net"),
        (ModelCard("Net", ("a", "b"), (1,), metrics={"test/accuracy": 0.5}), "Net, test accuracy 50.00%"),
    ],
)
def test_the_server_says_how_good_the_model_is(card: ModelCard, text: str) -> None:
    assert describe(card) == text
