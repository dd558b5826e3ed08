"""Importance of columns and partial dependence, compared with scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numbers_data import COLUMNS, HousesDataModule
from report_reader import read
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.inspection import partial_dependence as sklearn_dependence
from sklearn.inspection import permutation_importance as sklearn_importance
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor, nn

from conftest import Train
from kindling import MLPRegressor, load
from kindling.data.tables.dates import as_days
from kindling.data.tables.scaling import scale, unscale
from kindling.evaluation.dependence import Dependence, partial_dependence
from kindling.evaluation.dependence_charts import Output, dependence_chart
from kindling.evaluation.features import Feature
from kindling.evaluation.importance import Compute, affordable_rows, permutation_importance, predictor_of
from kindling.evaluation.regression import Target
from kindling.evaluation.report.columns import importance_table

PLANS = np.array(["basic", "gold", "team"])


def table(rows: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.normal(size=rows), "noise": random.normal(size=rows)})
    return frame.assign(plan=random.choice(PLANS, rows))


def fitted(forest: Any, frame: pd.DataFrame, targets: Any) -> Pipeline:
    encoder = ColumnTransformer(
        [("n", "passthrough", ["age", "noise"]), ("c", OneHotEncoder(sparse_output=False), ["plan"])]
    )
    return make_pipeline(encoder, forest).fit(frame, targets)


def features(frame: pd.DataFrame) -> list[Feature]:
    """The inputs of the forest."""
    none = torch.zeros(len(frame), dtype=torch.bool)
    numbers = [
        Feature(name, torch.tensor(frame[[name]].to_numpy()), torch.tensor([place]), False, none)
        for place, name in enumerate(("age", "noise"))
    ]
    plans = torch.tensor(frame[["plan"]].to_numpy() == PLANS).double()
    return [*numbers, Feature("plan", plans, torch.arange(2, 2 + plans.shape[1]), True, none)]


def as_compute(pipeline: Pipeline) -> Compute:
    forest = pipeline[-1]

    def compute(inputs: Tensor) -> Tensor:
        if hasattr(forest, "predict_proba"):
            return torch.from_numpy(forest.predict_proba(inputs.numpy()).clip(1e-15)).log()
        return torch.from_numpy(forest.predict(inputs.numpy()))

    return compute


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_the_importance_agrees_with_scikit_learn(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kindling.evaluation.importance.REPEATS", 20)
    frame = table()
    values = frame["age"] * 2 + (frame["plan"] == "team") * 3 + np.random.default_rng(1).normal(size=len(frame))
    is_regression = task == "regression"
    targets = values.to_numpy() if is_regression else (values > 1).to_numpy().astype(int)
    cls = RandomForestRegressor if is_regression else RandomForestClassifier
    pipeline = fitted(cls(5, max_depth=4, min_samples_leaf=10, random_state=0), frame, targets)
    scoring = (
        {"rmse": "neg_root_mean_squared_error"} if is_regression else {"loss": "neg_log_loss", "error": "accuracy"}
    )
    expected = sklearn_importance(pipeline, frame, targets, scoring=[*scoring.values()], n_repeats=20, random_state=0)
    found = permutation_importance(as_compute(pipeline), features(frame), torch.tensor(targets))
    assert [one.feature.name for one in found][2] == "noise"
    assert found[0].matters
    assert found[1].matters
    for one in found:
        position = frame.columns.get_loc(one.feature.name)
        for name, scorer in scoring.items():
            mean = expected[scorer].importances_mean[position]
            spread = expected[scorer].importances_std[position]
            assert one.means[name] == pytest.approx(mean, abs=5 * spread / np.sqrt(20) + 1e-9)
            assert one.spreads[name] == pytest.approx(spread, rel=0.7, abs=0.003)


def test_the_partial_dependence_agrees_with_scikit_learn() -> None:
    frame = table()
    targets = frame["age"] ** 2 + (frame["plan"] == "team") * frame["age"]
    pipeline = fitted(RandomForestRegressor(5, random_state=0), frame, targets)
    inputs = features(frame)
    for feature in (inputs[0], inputs[2]):
        found = partial_dependence(as_compute(pipeline), inputs, feature)
        values = frame[feature.name].to_numpy()[found.samples]
        expected = sklearn_dependence(
            pipeline, frame, [feature.name], custom_values={feature.name: values}, kind="both", method="brute"
        )
        np.testing.assert_allclose(found.predictions.mean(dim=1), expected["average"][0])
        np.testing.assert_allclose(found.predictions.T, expected["individual"][0])
    assert [*values] == frame["plan"].value_counts().index.tolist()  # the most frequent first
    ages = frame["age"].to_numpy()[partial_dependence(as_compute(pipeline), inputs, inputs[0]).samples]
    np.testing.assert_allclose(ages, frame["age"].quantile(np.linspace(0.01, 0.99, 25), "nearest"), atol=0.05)


def test_a_value_that_is_missing_has_its_own_bar() -> None:
    missing = torch.tensor([False, True, False, False, True])
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    plan = Feature("plan", values, torch.arange(2), True, missing)
    age = Feature("age", torch.arange(5.0)[:, None], torch.tensor([2]), False, missing)
    both = [partial_dependence(lambda inputs: inputs.sum(dim=1), [plan, age], each) for each in (plan, age)]
    assert [each.samples.tolist() for each in both] == [[0, 3, 1], [0, 2, 3]]
    assert both[0].predictions.tolist() == [
        [3.0 - 2 + i for i in range(5)],
        [i * 1.0 for i in range(5)],
        [1.0 + i for i in range(5)],
    ]


def test_a_large_model_is_measured_on_fewer_rows() -> None:
    inputs = [
        Feature(str(number), torch.zeros(100, 1), torch.tensor([number]), False, torch.zeros(100, dtype=torch.bool))
        for number in range(9)
    ]
    rows = [affordable_rows(nn.Linear(9, width), inputs) for width in (8, 20_000, 10**6)]
    assert rows[0] == 10_000
    assert 100 < rows[1] < 10_000
    assert rows[2] == 100


def test_numbers_are_scaled_back() -> None:
    numbers = np.array([-1e6, 0, 20, 99.5, 100, 300, 1e5])
    np.testing.assert_allclose(unscale(scale(numbers, COLUMNS[0]), COLUMNS[0]), numbers, rtol=1e-6, atol=1e-6)


def chart(
    column: dict[str, Any], values: list[float], classes: tuple[str, ...] = (), labels: tuple[str, ...] = ()
) -> Any:
    """The axes of a chart with the given values, and predictions that grow by one tenth from one to the next."""
    known = torch.zeros(len(values), dtype=torch.bool)
    scaled = torch.tensor(scale(np.array(values), column) if "scale" in column else values)[:, None]
    feature = Feature(column["name"], scaled, torch.tensor([0]), column["kind"] == "category", known)
    steps = torch.arange(len(values)) / 10
    predictions = steps[:, None].expand(-1, 4)
    if classes:
        predictions = torch.stack([predictions / (number + 1) for number in range(len(classes))], dim=2)
    figure = dependence_chart(
        Dependence(feature, torch.arange(len(values)), predictions), column, Output("price (€)", classes), labels
    )
    figure.draw_without_rendering()
    return figure.axes[0]


def test_the_charts_are_in_the_units_of_the_data() -> None:
    axes = chart(COLUMNS[0] | {"units": ["m²"]}, [20, 60, 100, 180])
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), np.array([[20, 0], [60, 0.1], [100, 0.2], [180, 0.3]]), atol=1e-6
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("size (m²)", "price (€)")

    days = [as_days(text, False) for text in ("2024-03-01", "2024-07-01", "2025-03-01")]
    since = {"name": "since", "kind": "date", "center": days[1], "scale": 200.0, "limit": 5.0}
    axes = chart(since, days, ("no", "yes"))
    assert [str(moment)[:10] for moment in axes.lines[0].get_xdata()] == ["2024-03-01", "2024-07-01", "2025-03-01"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 0.05, 0.1], atol=1e-6)
    assert axes.get_ylabel() == "probability of yes"
    assert axes.yaxis.get_major_formatter()(0.05) in ("5%", "5.0%")

    axes = chart(since | {"name": "opens", "center": 0.5, "scale": 0.2}, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [6, 12, 18], atol=1e-5)
    assert axes.get_xlabel() == "opens (hours)"


def test_the_chart_of_categories_has_bars_or_dots() -> None:
    column = {"name": "plan", "kind": "category"}
    axes = chart(column, [0, 1, 2], labels=("basic", "$gold$", "team"))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["basic", "$gold$", "team"]
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in axes.patches], [0, 0.1, 0.2], atol=1e-6)

    axes = chart(column, [0, 1, 2], tuple("abcde"), ("basic", "gold", "team"))
    assert [line.get_label() for line in axes.lines] == ["a", "b", "c", "d"]  # e moves least
    np.testing.assert_allclose(axes.lines[1].get_xdata(), [0, 0.05, 0.1], atol=1e-6)


def test_the_report_shows_which_columns_matter(trained: Train) -> None:
    fit = (
        "--model MLPRegressor --model.optimizer.lr 0.01 --data.batch_size 32 --trainer.max_epochs 6 --run_name numbers"
    )
    trained(*fit.split(), "--data", "numbers_data.HousesDataModule")
    run = Path("runs/numbers/version_0")
    page = read(run)
    header, *rows = page.tables["Column importance"]
    assert header == ["column", "RMSE (€)", "±"]
    model, samples = load(run), pd.DataFrame(HousesDataModule().rows("test"))
    prices, random = samples.pop("price"), np.random.default_rng(0)

    def rmse(frame: pd.DataFrame) -> float:
        return float(((model.predict(frame).values - prices) ** 2).mean() ** 0.5)

    for name, mean, spread in rows:
        shuffled = [rmse(samples.assign(**{name: random.permutation(samples[name])})) for _ in range(5)]
        assert float(mean) == pytest.approx(np.mean(shuffled) - rmse(samples), abs=4 * float(spread))
    assert rows[0][0] == "size"
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)


def test_columns_without_a_clear_effect_are_named() -> None:
    frame = table()
    model = MLPRegressor(input_shape=(5,), hidden=())
    with torch.no_grad():
        next(model.network.parameters())[:] = torch.tensor([1.0, 0, 0, 0, 0])
    inputs = [Feature(each.name, each.values.float(), *each[2:]) for each in features(frame)]
    found = permutation_importance(predictor_of(model), inputs, torch.tensor(frame["age"].to_numpy()).float())
    text = "".join(importance_table(found, 400, 1000, Target("price", "€")))
    assert "among the 400 of 1,000 test samples" in text
    assert text.count("<tr>") == 2
    assert "No clear effect (at most twice the standard deviation): noise, plan." in text
