"""Scaling of numbers with a few outliers among them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import Command
from kindling.data.tables.scaling import are_far, learn_scale, scale
from rows import one_column

FIT = (
    "fit --model MLPClassifier --data TableDataModule --data.path wild.csv --data.target y --run_name wild "
    "--model.optimizer.lr 0.01 --trainer.max_epochs 6"
).split()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("wild", "count", "line"),
    [
        ("50", 3, ""),
        ("999999999", 3, "column x of wild.csv: 3 of 1,000 values are far from the others, such as 999999999"),
        ("1e+300", 3, "column x of wild.csv: 3 of 1,000 values are far from the others, such as 1e+300"),
        ("-9999", 30, "column x of wild.csv: 30 of 1,000 values are far from the others, such as -9999"),
        ("-999", 150, "column x of wild.csv: 150 of 1,000 values are far from the others, such as -999"),
    ],
)
def test_a_few_outliers_do_not_matter(kindling: Command, wild: str, count: int, line: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(50, 10, 1000)
    y = x + random.normal(0, 2, 1000) > 50
    x = x.round(3).astype(str).astype(object)
    x[random.permutation(1000)[:count]] = wild
    pd.DataFrame({"x": x, "y": y}).to_csv("wild.csv", index=False)
    result = kindling(*FIT)
    assert result.code == 0, result.err
    metrics = json.loads(Path("runs/wild/version_0/test_metrics.json").read_text())
    assert metrics["test/accuracy"] >= 0.9 * (1 - count / 2000)
    assert [text.split(";")[0] for text in result.err.splitlines() if text.startswith("column x")] == [line] * bool(
        line
    )
    assert (f"if it means missing, --data.missing '[\"{wild}\"]'" in result.err) == bool(line)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.random.default_rng(0).normal(50, 10, 1000), id="normal"),
        pytest.param(np.random.default_rng(0).lognormal(10, 1, 1000), id="incomes"),
        pytest.param(np.random.default_rng(0).integers(0, 2, 1000).astype(float), id="binary"),
        pytest.param(np.array([0.0] * 970 + [1.0] * 30), id="rarely not zero"),
        pytest.param(np.array([0.0] * 900 + [*np.random.default_rng(0).lognormal(8, 1, 100)]), id="gains"),
    ],
)
def test_outliers_do_not_change_other_values(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> None:
    clean = learn_scale(values)
    features = scale(values, clean)
    assert not are_far(values, clean).any()
    assert (np.argsort(features, kind="stable") == np.argsort(values, kind="stable")).all()  # no order is lost
    assert 0.1 < features.std() < 2
    wild = np.array([1e300, -1e300, 999999999.0, -1e9])
    mixed = np.append(values, wild)
    learned = learn_scale(mixed)
    assert scale(values, learned) == pytest.approx(features, abs=0.15)
    assert np.abs(scale(mixed, learned)).max() <= 5
    assert are_far(mixed, learned).sum() == 4


def test_placeholder_dates_do_not_matter() -> None:
    dates = [f"2024-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    _, clean = one_column(dates)
    _, features = one_column(["9999-12-31", "0001-01-01", *dates])
    assert features[2:, 0].numpy() == pytest.approx(clean[:, 0].numpy(), abs=0.05)
    assert features[0, 0] > 4.9
    assert features[1, 0] < -4.9
