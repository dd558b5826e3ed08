"""The TensorBoard events of a regression run, read with TensorBoard's own reader."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from conftest import Command, Train

pytestmark = pytest.mark.usefixtures("pictures")

RUN = Path("runs/numbers/version_0")
FIT = "--model MLPRegressor --model.optimizer.lr 0.01 --trainer.max_epochs 3 --run_name numbers --data numbers_data."
CHARTS = {f"pictures/{name}" for name in ("predictions and targets", "errors by prediction", "error histogram")}


def read(split: str) -> EventAccumulator:
    found = EventAccumulator(str(RUN / split), size_guidance={"images": 0, "tensors": 0, "histograms": 0})
    return found.Reload()


def points() -> pd.DataFrame:
    (file,) = (RUN / "test").glob("*/last_hidden_layer/metadata.tsv")
    return pd.read_csv(file, sep="\t")


def test_regression_has_curves_charts_and_results(trained: Train) -> None:
    trained(*f"{FIT}HousesDataModule".split())
    for split in ("train", "val"):
        for metric in ("loss", "mae", "rmse", "r2"):
            assert len(read(split).Scalars(f"metrics/{metric}")) == 3
    for split in ("val", "test"):
        assert set(read(split).Tags()["images"]) == CHARTS
        assert len(read(split).Images("pictures/error histogram")[0].encoded_image_string) > 5000
    metrics = json.loads((RUN / "test_metrics.json").read_text())
    for name in ("mae", "rmse", "r2", "loss"):
        shown = read("test").Scalars(f"result/test_{name}")[-1].value
        assert shown == pytest.approx(metrics[f"test/{name}"], rel=1e-5)
        assert read("test").Scalars(f"result/val_{name}")
    content = read("test").SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    assert (values["model"].string_value, values["lr"].number_value) == ("MLPRegressor", 0.01)


def test_the_worst_predictions_of_a_table_are_rows(trained: Train) -> None:
    trained(*f"{FIT}HousesDataModule".split())
    text = make_ndarray(read("val").Tensors("worst predictions/text_summary")[-1].tensor_proto).item().decode()
    header, _, *rows = text.splitlines()
    assert header == "| row | target | prediction | error |"
    errors = [abs(float(row.split("|")[4])) for row in rows]
    assert len(errors) == 30
    assert errors == sorted(errors, reverse=True)


def test_points_can_be_colored_by_target_and_error(trained: Train) -> None:
    trained(*f"{FIT}HousesDataModule".split())
    table, found = pd.read_csv(RUN / "predictions.csv"), points()
    assert list(found) == ["target", "prediction", "error", "absolute error"]
    assert found.target.tolist() == pytest.approx(table.target.tolist(), rel=1e-5)
    assert found.prediction.tolist() == pytest.approx(table.prediction.tolist(), rel=1e-5)


def test_images_are_shown_with_targets_and_predictions(trained: Train) -> None:
    trained(*f"{FIT}BrightnessDataModule".split())
    assert "pictures/training samples" in read("train").Tags()["images"]
    assert set(read("val").Tags()["images"]) == {*CHARTS, "pictures/worst predictions"}
    assert len(points()) == 300
    assert list((RUN / "test").glob("*/last_hidden_layer/sprite.png"))


@pytest.mark.slow
def test_a_resumed_run_and_a_separate_test_show_the_same(kindling: Command) -> None:
    fit = [*f"{FIT}WavesDataModule".split(), "--test_after_fit", "false"]
    assert kindling("fit", *fit).code == 0
    best = read("test").Scalars("result/val_mae")[-1].value
    more = ["--trainer.max_epochs", "4", "--model.optimizer.lr", "10", "--test_after_fit", "false"]
    assert kindling("fit", "--ckpt_path", RUN, *more).code == 0
    assert read("test").Scalars("result/val_mae")[-1].value == pytest.approx(best)
    assert set(read("val").Tags()["images"]) == CHARTS
    assert kindling("test", "--ckpt_path", RUN).code == 0
    assert set(read("test").Tags()["images"]) == CHARTS


def test_nan_predictions_are_left_out_of_charts(kindling: Command) -> None:
    result = kindling("fit", *f"{FIT}BrokenWavesDataModule".split())
    assert result.code == 0, result.err
    assert set(read("test").Tags()["images"]) == CHARTS
