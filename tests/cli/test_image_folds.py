"""Cross-validation of images and of data modules of the user's own, whose folds learn different things."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_reader import read as read_report
from sklearn.metrics import average_precision_score, mean_absolute_error, roc_auc_score

from conftest import Command
from kindling import load

REPEAT = Path("runs/folds/repeat_0")
OPTIONS = (
    *("repeat", "--folds", 2, "--run_name", "folds", "--data", "ImageFolderDataModule", "--data.data_dir", "photos"),
    *("--trainer.max_epochs", 2, "--model.channels", "[4]"),
)


def write_photos(number: int = 12, sizes: tuple[int, int] = (8, 9), top: int = 256, dtype: type = np.uint8) -> None:
    """Write `photos/<class>/<number>.png`, each with a range of values of its own if they have 16 bits."""
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        Path("photos", kind).mkdir(parents=True, exist_ok=True)
        for place in range(number):
            side = int(random.integers(*sizes))
            shape = (side, side, 3) if dtype == np.uint8 else (side, side)
            pixels = random.integers(0, top // 2, shape) + (kind == "cat") * top // 40 + place * (dtype != np.uint8)
            Image.fromarray(pixels.astype(dtype)).save(Path("photos", kind, f"{place}.png"))


@pytest.mark.slow
def test_photos_of_varying_size_have_one_size_for_all_folds(kindling: Command) -> None:
    write_photos(sizes=(8, 40))
    result = kindling(*OPTIONS, "--model", "CNNClassifier")
    assert result.code == 0, result.err
    found = pd.read_csv(REPEAT / "predictions.csv")
    expected = np.mean([load(REPEAT / f"fold_{fold}").predict("photos/cat").probabilities for fold in (1, 2)], axis=0)
    np.testing.assert_allclose(load(REPEAT).predict("photos/cat").probabilities, expected, atol=1e-6)

    page = read_report(REPEAT)
    is_dog = found["label"] == "dog"
    assert f"ROC AUC{roc_auc_score(is_dog, found['dog']):.4f}" in page.text
    assert f"average precision{average_precision_score(is_dog, found['dog']):.4f}" in page.text


@pytest.mark.slow
def test_16_bit_images_of_different_range_have_a_report_without_an_ensemble(kindling: Command) -> None:
    write_photos(top=3000, dtype=np.uint16)
    result = kindling(*OPTIONS, "--model", "CNNClassifier")
    assert result.code == 0, result.err
    out = " ".join(result.out.split())
    assert "no ensemble of the folds: the members of the ensemble were trained with different ranges of 16-bit" in out
    assert "report over all folds: runs/folds/repeat_0/report.html" in out
    assert "predict --ckpt_path" not in out
    assert len(pd.read_csv(REPEAT / "predictions.csv")) == 24
    assert json.loads((REPEAT / "summary.json").read_text())["test/accuracy"]
    assert "24" in read_report(REPEAT).text
    assert not [*REPEAT.glob("ensemble*.*ml"), *REPEAT.glob("ensemble/*"), *REPEAT.glob("ensemble_split.csv")]
    assert kindling(*OPTIONS, "--model", "CNNClassifier").code == 0


@pytest.mark.slow
def test_numbers_of_images_are_combined_in_their_own_units(kindling: Command) -> None:
    write_photos()
    files = sorted(path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.png"))
    ages = np.random.default_rng(0).normal(50, 10, len(files)).round(1)
    pd.DataFrame({"file": files, "age": ages}).to_csv("labels.csv", index=False)
    result = kindling(*OPTIONS, "--model", "CNNRegressor", "--data.labels", "labels.csv")
    assert result.code == 0, result.err
    found = pd.read_csv(REPEAT / "predictions.csv")
    assert f"MAE{mean_absolute_error(found['target'], found['prediction']):.3f}" in read_report(REPEAT).text
    expected = np.mean([load(REPEAT / f"fold_{fold}").predict("photos").values for fold in (1, 2)], axis=0)
    np.testing.assert_allclose(load(REPEAT).predict("photos").values, expected, rtol=1e-5)


MODULE = """
import torch
from kindling.data import ClassificationDataModule

class Points(ClassificationDataModule):
    input_shape, num_classes, class_names = (2,), 2, ("low", "high")

    def __init__(self, fold: str = "1/2", **loading):
        super().__init__(**loading)
        self.number, self.count = map(int, fold.split("/"))

    def load(self, split):
        inputs = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        rows = (torch.arange(60) % self.count == self.number - 1) == (split == "test")
        return inputs[rows], (inputs[rows, 0] > 0).long()
"""


@pytest.mark.slow
def test_a_module_without_a_file_of_its_splits_has_predictions_and_a_summary(kindling: Command) -> None:
    Path("points.py").write_text(MODULE)
    options = ("--plugin", "points.py", "--data", "points.Points", "--trainer.max_epochs", 1, "--run_name", "folds")
    result = kindling("repeat", "--folds", 2, "--model", "MLPClassifier", *options)
    assert result.code == 0, result.err
    assert "report over all folds" not in result.out
    assert len(pd.read_csv(REPEAT / "predictions.csv")) == 60
    assert (REPEAT / "summary.json").exists()


def test_a_class_within_one_fold_is_named_by_a_file(kindling: Command) -> None:
    write_photos()
    for path in Path("photos/cat").glob("*.png"):
        if path.stem != "3":
            path.unlink()
    fit = (*OPTIONS[3:-4], "--trainer.max_epochs", 1, "--model.channels", "[4]")
    results = [kindling("fit", *fit, "--model", "CNNClassifier", "--data.fold", f"{fold}/2") for fold in (1, 2)]
    assert any("tests on all images of a class (that of cat/3.png)" in result.err for result in results)
    assert all("row" not in result.err for result in results)
