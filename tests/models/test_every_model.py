"""Every model that is exported by `kindling.models` trains, loads, predicts and exports."""

import csv
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labels_data import ColorsDataModule
from numbers_data import BrightnessDataModule

from conftest import Command, Result
from helpers import SumDataModule
from kindling import BaseDataModule, BaseTask, ClassificationTask, MultiLabelTask, data, load, models
from kindling.testing import check_model

EXPORTED = {name: getattr(models, name) for name in models.__all__ if not name.endswith("Task")}
MODELS = {name: cls for name, cls in EXPORTED.items() if issubclass(cls, BaseTask)}
FEW = "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --run_name every".split()
RUN = Path("runs/every/version_0")

# A model may take images, or features; one that predicts numbers or several classes is given such.
SOURCES = {
    "classification": ("DigitsDataModule", "SyntheticDataModule"),
    "regression": ("numbers_data.BrightnessDataModule", "helpers.SumDataModule"),
    "multilabel": ("labels_data.ColorsDataModule",),
}
# Or what only a source of one's own has: the others that need no argument, and no download.
OTHERS = [
    name
    for name in data.__all__
    if name not in (*SOURCES["classification"], "BaseDataModule", "ClassificationDataModule", "MNISTDataModule")
    and all(
        argument.default is not argument.empty or argument.kind is argument.VAR_KEYWORD
        for argument in inspect.signature(getattr(data, name)).parameters.values()
    )
]

# What a model can't be built without here.
OPTIONS = {
    "Transfer": ["--model.backbone", "runs/part/version_0"],
    "Ensemble": ["--model.checkpoints", "[runs/part/version_0, runs/part/version_1]"],
}


# Arguments of those that learn anything, and the data for the checks that projects call.
CHECKED: dict[str, tuple[type[BaseDataModule], dict[str, Any]]] = {
    "MLPClassifier": (data.SyntheticDataModule, {}),
    "CNNClassifier": (data.DigitsDataModule, {"channels": (8,)}),
    "MLPRegressor": (SumDataModule, {"optimizer": partial(torch.optim.Adam, lr=0.01)}),
    "CNNMultiLabelClassifier": (ColorsDataModule, {"channels": (8,), "optimizer": partial(torch.optim.Adam, lr=0.01)}),
    "CNNRegressor": (BrightnessDataModule, {"channels": (8,), "optimizer": partial(torch.optim.Adam, lr=0.01)}),
    "TabMClassifier": (data.SyntheticDataModule, {"hidden": (32,)}),
    "TabMRegressor": (SumDataModule, {"hidden": (32,), "optimizer": partial(torch.optim.Adam, lr=0.01)}),
    "TransferClassifier": (data.DigitsDataModule, {"backbone": "runs/part/version_0", "weights": "none"}),
}


def options(name: str) -> tuple[list[str], str]:
    """Return the options without which a model can't be built, and the model of the runs that they name."""
    kind = next((kind for kind in OPTIONS if name.startswith(kind)), "")
    return OPTIONS.get(kind, []), f"CNN{name.removeprefix(kind)}"


def train(kindling: Command, name: str, model: type[BaseTask]) -> Result:
    """Train on the first data source that fits the model."""
    for source in (*SOURCES[str(model.task)], *OTHERS):
        result = kindling("fit", "--model", name, *options(name)[0], "--data", source, *FEW)
        if result.code == 0:
            break
    return result


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("name", "model"), MODELS.items(), ids=MODELS)
def test_it_trains_loads_predicts_and_exports(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, name: str, model: type[BaseTask]
) -> None:
    needed, member = options(name)
    for number in range("".join(needed).count("part")):
        part = ["--model", member, "--model.channels", "[4]", "--data", SOURCES[str(model.task)][0], *FEW]
        result = kindling("fit", *part, "--run_name", "part", "--test_after_fit", "false", "--seed_everything", number)
        assert result.code == 0, result.err
    result = train(kindling, name, model)
    assert result.code == 0, result.err
    if name in CHECKED:
        source, arguments = CHECKED[name]
        check_model(model, source(), formats=(), **arguments)  # exported below

    again = model.load_from_checkpoint(RUN / "checkpoints/best.ckpt", weights_only=True).eval()
    inputs = torch.rand(5, *again.input_shape)
    with torch.no_grad():
        outputs = again(inputs)
    assert kindling("predict", "--ckpt_path", RUN).code == 0
    with (RUN / "predictions.csv").open(newline="") as file:
        assert all(row["prediction"] or model.task == "multilabel" for row in csv.DictReader(file))
    if isinstance(again, ClassificationTask | MultiLabelTask):
        assert outputs.shape == (5, again.num_classes)
        expected = again.to_prediction(outputs)
        np.testing.assert_allclose(load(RUN).predict(inputs).probabilities, expected, rtol=1e-4, atol=1e-6)
    else:
        assert outputs.shape == (5,)
        np.testing.assert_allclose(load(RUN).predict(inputs).values, outputs, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr("kindling.deploy.verify.SECONDS", 0.02)
    result = kindling("export", "--ckpt_path", RUN)  # compares what it writes with the checkpoint
    assert (result.code, (RUN / "export/model.onnx").exists()) == (0, True), result.err
