"""Multi-label classifiers from Python, as exported files, over HTTP and in TorchServe archives."""

import json
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from labels_data import COLORS, ColorsDataModule
from PIL import Image
from servers import serving

from conftest import Command, Train
from kindling import MultiLabelPrediction, load
from kindling.deploy.model_card import ModelCard
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.serve import describe

pytestmark = pytest.mark.usefixtures("quick_proof")

RUN = Path("runs/colors/version_0")
FIT = (
    "--model CNNMultiLabelClassifier --model.channels [4] --model.hidden 8 --model.optimizer.lr 0.01 "
    "--trainer.max_epochs 2 --run_name colors --data labels_data.ColorsDataModule"
).split()


def test_load_predicts_what_the_command_predicts(trained: Train) -> None:
    trained(*FIT)
    images, _ = ColorsDataModule().load("test")
    model = load(RUN)
    found = model.predict(images)
    assert isinstance(found, MultiLabelPrediction)
    table = pd.read_csv(RUN / "predictions.csv", keep_default_na=False)
    np.testing.assert_allclose(found.probabilities, table[[*COLORS]], rtol=1e-4, atol=1e-5)
    assert ["|".join(labels) for labels in found.labels] == table.prediction.tolist()
    Image.fromarray(images[3].permute(1, 2, 0).numpy()).save("photo.png")
    np.testing.assert_allclose(model.predict("photo.png").probabilities[0], found.probabilities[3], rtol=1e-5)
    assert repr(model) == (
        "Predictor: CNNMultiLabelClassifier, takes images (PNG, JPEG, ...) of any size, or numbers of shape (3, 8, 8), "
        "predicts classes red, green, blue"
    )
    assert (model.card.task, model.card.classes) == ("multilabel", COLORS)
    precision = json.loads((RUN / "test_metrics.json").read_text())["test/map"]
    assert describe(model.card) == f"CNNMultiLabelClassifier, test mean average precision {precision:.2%}"


def test_every_format_predicts_what_the_checkpoint_does(kindling: Command, trained: Train) -> None:
    trained(*FIT)
    predictor = load(RUN)
    samples = torch.rand(50, *predictor.card.input_shape)
    expected, folder = predictor.predict(samples).probabilities, RUN / "export"
    for format in ("onnx", "torch_export", "torchserve"):  # which contains TorchScript
        result = kindling("export", "--format", format)
        assert result.code == 0, result.err
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    cards = [{name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}]
    found = session.run(["probabilities"], {"inputs": samples.numpy()})
    extra = {"card.json": ""}
    found.append(torch.export.load(folder / "model.pt2", extra_files=extra).module()(samples)[0].numpy())
    cards.append(json.loads(extra["card.json"]))
    with zipfile.ZipFile(folder / "model.mar") as archive:
        archive.extract("model.pt", "archive")
    extra = {"card.json": ""}
    found.append(torch.jit.load("archive/model.pt", _extra_files=extra)(samples)[0].numpy())  # type: ignore[no-untyped-call]
    cards.append(json.loads(extra["card.json"]))
    for values, card in zip(found, cards, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
        assert ModelCard.from_dict(card) == predictor.card
    again = load_onnx(folder / "model.onnx").predict(samples)
    assert again.labels == predictor.predict(samples).labels


@pytest.mark.slow
def test_the_server_answers_with_the_classes_of_a_sample(trained: Train) -> None:
    trained(*FIT)
    images = (ColorsDataModule().load("test")[0][:8] / 255).tolist()
    expected = load(RUN).predict(torch.tensor(images))
    with serving("--ckpt_path", str(RUN)) as server:
        status, answer = server.predict(json.dumps({"inputs": images}), "/predict?top=2")
        info = server.ask("GET", "/info")[1]
    assert status == 200
    assert info["task"] == "multilabel"
    for prediction, labels, probabilities in zip(answer["predictions"], *expected, strict=True):
        assert prediction["classes"] == labels
        ranked = sorted(zip(COLORS, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])[:2]
        assert [one["class"] for one in prediction["top"]] == [name for name, _ in ranked]
        assert [one["probability"] for one in prediction["top"]] == pytest.approx([p for _, p in ranked], rel=1e-4)
