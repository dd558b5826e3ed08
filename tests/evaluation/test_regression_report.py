"""The report of a regression model, compared with scikit-learn, SciPy and pandas."""

import base64
import csv
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numbers_data import BrightnessDataModule
from PIL import Image
from report_reader import Page, read
from scipy.stats import bootstrap, kruskal
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from conftest import Command, Train
from kindling.evaluation.features import Feature, errors_by_feature, kruskal_wallis
from kindling.evaluation.regression import RegressionPredictions, error_intervals, errors_by_target
from kindling.evaluation.regression_charts import error_histogram
from kindling.evaluation.statistics import random_blocks

RUN = Path("runs/numbers/version_0")
FIT = (
    "--model MLPRegressor --model.optimizer.lr 0.01 --data.batch_size 32 --trainer.max_epochs 6 --run_name numbers "
    "--data numbers_data."
)


def options(data: str) -> list[str]:
    return f"{FIT}{data}DataModule".split()


def written() -> pd.DataFrame:
    table = pd.read_csv(RUN / "predictions.csv")
    return table.assign(error=table.prediction - table.target)


def number(text: str) -> float:
    return float(text.replace(",", ""))


def cards(page: Page) -> dict[str, tuple[float, float, float]]:
    """Return the metrics at the top of the report and their intervals."""
    pattern = r'class="card">([^<]+)<b>([\d.,-]+)[^<]*</b><span>([\d.,-]+)[^<]* to ([\d.,-]+)'
    found = re.findall(pattern, (RUN / "report.html").read_text(encoding="utf-8"))
    return {name: (number(value), number(low), number(high)) for name, value, low, high in found}


def test_the_report_of_a_table_agrees_with_its_predictions(trained: Train) -> None:
    trained(*options("Houses"))
    table, page = written(), read(RUN)
    shown = cards(page)
    expected = {
        "MAE": mean_absolute_error(table.target, table.prediction),
        "RMSE": root_mean_squared_error(table.target, table.prediction),
        "R²": r2_score(table.target, table.prediction),
    }
    for name, value in expected.items():
        assert shown[name][0] == pytest.approx(value, rel=2e-3)
        assert shown[name][1] < value < shown[name][2]
    assert shown["loss"][1] < shown["loss"][0] < shown["loss"][2]
    low, high = re.search(r"range from ([\d.]+) to ([\d.]+) €", page.text).groups()  # type: ignore[union-attr]
    assert [float(low), float(high)] == pytest.approx([table.target.min(), table.target.max()], abs=0.06)

    header, *rows = page.tables["Errors by target"]
    assert header == ["price (€)", "samples", "MAE", "bias"]
    groups = table.groupby(pd.qcut(table.target, 10, labels=False))
    assert len(rows) == 10
    for (_, group), (label, samples, mae, bias) in zip(groups, rows, strict=True):
        ends = [number(end) for end in label.split(" to ")]
        assert ends == pytest.approx([group.target.min(), group.target.max()], abs=0.06)
        assert int(samples) == len(group)
        assert number(mae) == pytest.approx(group.error.abs().mean(), abs=0.06)
        assert number(bias.replace("+", "")) == pytest.approx(group.error.mean(), abs=0.06)

    header, *rows = page.tables["Worst predictions"]
    assert header == ["row", "price", "prediction", "error", "size", "age", "plan"]
    worst = table.assign(size=table.error.abs()).sort_values("size", ascending=False).head(24)
    assert [int(row[0]) for row in rows] == worst.row.tolist()
    assert [number(row[3].replace("+", "")) for row in rows] == pytest.approx(worst.error.tolist(), abs=0.06)


def test_features_on_which_the_errors_depend_are_shown_with_their_values(trained: Train) -> None:
    trained(*options("Houses"))
    header, *rows = read(RUN).tables["Errors by feature"]
    assert header == ["plan", "samples", "MAE", "bias"]
    shown = {row[0]: (int(row[1]), number(row[2])) for row in rows if len(row) == 4}
    assert rows[0][0] == "team"  # whose noise is five times as large
    assert sum(shown[plan][0] for plan in ("basic", "gold", "team")) == 500
    assert shown["team"][1] > 2 * shown["basic"][1]


def test_images_with_the_largest_errors_are_shown(trained: Train) -> None:
    trained(*options("Brightness"))
    table, page = written(), read(RUN)
    worst = table.error.abs().sort_values(ascending=False).index[:24]
    data = BrightnessDataModule()
    data.setup("test")
    assert len(page.pictures) == 24
    for row, source in zip(worst, page.pictures, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
            assert torch.equal(torch.from_numpy(np.array(image)), data.test.inputs[row, 0])
    captions = [caption for caption in page.captions if "→" in caption]
    for row, caption in zip(worst, captions[:24], strict=True):
        found = re.fullmatch(r"([\d.]+) → ([-\d.]+) \(([-+\d.]+)\)row (\d+)", caption)
        assert found, caption
        assert int(found[4]) == row
        expected = table.loc[row, ["target", "prediction", "error"]].tolist()
        assert [*map(float, found.groups()[:3])] == pytest.approx(expected, abs=0.01)
    assert page.heat_maps == ["heat map: orange raises the prediction, blue lowers it"] * 12
    smallest = table.error.abs().sort_values().index[:4]
    assert [int(caption.rpartition("row ")[2]) for caption in captions[24:]] == [*smallest]
    assert "Errors by feature" not in page.text


def test_the_intervals_agree_with_scipy() -> None:
    random = np.random.default_rng(1)
    targets = 1e6 + 10 * random.standard_normal(500)
    values = targets + random.standard_normal(500) * np.where(random.random(500) < 0.1, 20, 3)
    losses = (values - targets) ** 2 / 100
    predictions = RegressionPredictions(torch.from_numpy(values), torch.from_numpy(targets))
    found = error_intervals(predictions, torch.from_numpy(losses))
    measures: dict[str, Any] = {
        "mae": mean_absolute_error,
        "rmse": root_mean_squared_error,
        "r2": r2_score,
        "loss": lambda truth, guess: np.mean((truth - guess) ** 2) / 100,
    }
    for name, measure in measures.items():
        expected = bootstrap(
            (targets, values), measure, paired=True, vectorized=False, method="percentile", n_resamples=1000, rng=2
        ).confidence_interval
        width = expected.high - expected.low
        np.testing.assert_allclose(found[name], (expected.low, expected.high), atol=0.15 * width)


def test_the_test_of_features_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(4, size=200)
    for values in (random.standard_normal(200), random.integers(5, size=200) + (groups == 1)):
        expected = kruskal(*(values[groups == group] for group in range(4))).pvalue
        assert kruskal_wallis(torch.from_numpy(values).double(), torch.from_numpy(groups)) == pytest.approx(expected)
    assert kruskal_wallis(torch.ones(9), torch.arange(9) % 3) == 1


def test_only_features_that_matter_are_found() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 20, generator=random)
    errors = torch.randn(2000, generator=random) * (1 + (inputs[:, 7] > 1))
    missing = torch.zeros(2000, dtype=torch.bool)
    features = [
        Feature(str(place), inputs[:, place : place + 1], torch.tensor([place]), False, missing) for place in range(20)
    ]
    (found,) = errors_by_feature(errors, features, 3)
    assert found.feature.name == "7"
    assert len(found.groups) == 4
    assert found.groups[3].mae == max(group.mae for group in found.groups)
    assert not errors_by_feature(torch.randn(2000, generator=random), features, 3)


def test_samples_without_a_value_are_a_group_of_their_own() -> None:
    missing = torch.arange(100) % 10 == 5
    values = torch.stack([torch.arange(100.0).where(~missing, 50), missing.float()], dim=1)
    groups = Feature("area", values, torch.tensor([0]), False, missing).groups
    assert len({*groups.tolist()}) == 5
    assert (groups == groups.max()).equal(missing)


def test_equal_targets_share_a_group() -> None:
    targets = torch.tensor([1.0] * 70 + [2.0] * 20 + [3.0] * 10)
    groups = errors_by_target(RegressionPredictions(targets + 1, targets))
    assert [len(group.rows) for group in groups] == [70, 20, 10]
    assert [group.bias for group in groups] == [1, 1, 1]


def test_predictions_that_are_nan_are_counted_and_shown_first(kindling: Command) -> None:
    result = kindling("fit", *options("BrokenWaves"))
    assert result.code == 0, result.err
    page, metrics = read(RUN), json.loads((RUN / "test_metrics.json").read_text())
    assert metrics["test/mae"] is None
    assert "134 predictions are not finite and left out below." in page.text
    assert "MAEnanno interval" in page.text
    assert page.tables["Worst predictions"][1][2:4] == ["nan", "nan"]
    assert sum(int(row[1]) for row in page.tables["Errors by target"][1:]) == 266


@pytest.mark.filterwarnings("ignore:The variance of predictions or target")
def test_targets_that_are_all_the_same_have_a_report(kindling: Command) -> None:
    result = kindling("fit", *options("OneTarget"))
    assert (result.code, result.err) == (0, "")
    assert "Errors by target" not in read(RUN).text


def test_few_images_are_shown_once(kindling: Command, trained: Train) -> None:
    trained(*options("Brightness"), "--data.eval_batch_size", "26", "--trainer.limit_test_batches", "1")
    captions = [caption.rpartition("row ")[2] for caption in read(RUN).captions if "→" in caption]
    assert sorted(map(int, captions)) == [*range(26)]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_few_samples_have_a_report(kindling: Command, trained: Train, number: int) -> None:
    few = ["--data.eval_batch_size", str(number), "--trainer.limit_test_batches", "1"]
    result = kindling("fit", *options("Waves"), *few)
    assert (result.code, result.err) == (0, "")
    page = read(RUN)
    assert f"The {number} largest errors." in page.text
    assert "Errors by target" not in page.text  # a group of all
    with (RUN / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == number


def test_intervals_of_many_samples_take_seconds_and_equal_those_of_the_normal_distribution() -> None:
    number = 200_000
    errors = torch.randn(number, generator=torch.Generator().manual_seed(0))
    targets = torch.randn(number, generator=torch.Generator().manual_seed(1))
    predictions = RegressionPredictions(targets + errors, targets)
    losses = torch.stack([(errors[rows] ** 2).mean() for rows in random_blocks(len(errors))])
    started = time.process_time()
    low, high = error_intervals(predictions, losses)["mae"]
    assert time.process_time() - started < 5
    half = 1.96 * errors.abs().std().item() / number**0.5
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert (low + high) / 2 == pytest.approx(errors.abs().mean().item(), abs=half / 5)


@pytest.mark.parametrize("wild", [0.0, 1e12], ids=["usual", "wild"])
def test_the_histogram_of_errors_has_few_bars_whatever_the_errors(wild: float) -> None:
    errors = torch.randn(60, generator=torch.Generator().manual_seed(0))
    errors[0] += wild
    figure = error_histogram(RegressionPredictions(errors, torch.zeros(60)))
    assert 8 <= len(figure.axes[0].patches) <= 40
