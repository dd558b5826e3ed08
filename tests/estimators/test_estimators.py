"""The estimators in scikit-learn's own tools."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from conftest import Command
from kindling import TableDataModule, load
from kindling.estimators import TableClassifier, TableRegressor

QUICK: dict[str, Any] = {"learning_rate": 0.01, "model_options": {"hidden": (32,)}, "random_state": 0}


@pytest.fixture(scope="module")
def customers() -> pd.DataFrame:
    """Rows of every type, with gaps: the target depends on a number, a category and a date."""
    random = np.random.default_rng(0)
    rows = 240
    frame = pd.DataFrame(
        {
            "age": random.normal(40, 12, rows).round(1),
            "plan": random.choice(["basic", "gold", "team"], rows),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 1500, rows), "D"),
            "active": random.random(rows) < 0.5,
            "visits": pd.array(random.poisson(9, rows), dtype="Int64"),
            "branch": pd.Categorical(random.choice(["Ulm", "Bonn"], rows)),
        },
        index=np.arange(rows) * 10,
    )
    score = (frame["age"] - 40) / 12 + (frame["plan"] == "gold") + frame["active"]
    frame["price"] = 1000 + 300 * score
    frame["churned"] = np.where(score > 0.8, "yes", "no")
    frame.loc[frame.index[::9], "age"] = np.nan
    frame.loc[frame.index[::7], "plan"] = None
    frame.loc[frame.index[::11], "since"] = pd.NaT
    frame.loc[frame.index[::8], "visits"] = pd.NA
    return frame


@pytest.mark.quick_cases(16)
@parametrize_with_checks([TableClassifier(max_epochs=15, **QUICK), TableRegressor(max_epochs=25, **QUICK)])  # type: ignore[untyped-decorator]
def test_they_follow_the_rules_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_they_are_what_the_command_trains(kindling: Command, customers: pd.DataFrame) -> None:
    for target, kind in (("churned", TableClassifier), ("price", TableRegressor)):
        table = customers.drop(columns={"churned", "price"} - {target})
        table.to_csv(f"{target}.csv", index=False)
        one = ("--trainer.max_epochs", "1", "--test_after_fit", "false", "--run_name", target)
        assert (
            kindling("fit", "--config", "table_mlp", "--data.path", f"{target}.csv", "--data.target", target, *one).code
            == 0
        )
        stored = torch.load(f"runs/{target}/version_0/checkpoints/best.ckpt", weights_only=True)
        kind(max_epochs=1).fit(table.drop(columns=target), table[target]).save("model.ckpt")
        ours = torch.load("model.ckpt", weights_only=True)
        expected: dict[str, Any]
        found: dict[str, Any]
        known = ("mean", "std", "_class_path")  # of other training rows; of another module that has the class
        expected, found = (
            {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in one["hyper_parameters"].items()
                if name not in known
            }
            for one in (stored, ours)
        )
        for name in ("optimizer", "lr_scheduler"):  # the command stores defaults, too
            factory, theirs = found.pop(name), expected.pop(name)
            assert factory["class_path"].rpartition(".")[2] == theirs["class_path"].rpartition(".")[2]
            assert factory["init_args"].items() <= theirs["init_args"].items()
        shared = found.keys() & expected.keys()
        assert {name: found[name] for name in shared} == {name: expected[name] for name in shared}
        assert shared >= {"hidden", "dropout", "input_shape"}
        assert {*ours["state_dict"]} == {*stored["state_dict"]}
        assert [column["name"] for column in ours["TableDataModule"]["columns"]] == [
            column["name"] for column in stored["TableDataModule"]["columns"]
        ]


def test_a_data_frame_of_all_types_is_learned_saved_and_loaded(
    kindling: Command, customers: pd.DataFrame, capfd: pytest.CaptureFixture[str]
) -> None:
    before, seed = {*Path().iterdir()}, str(np.random.get_state())  # noqa: NPY002
    frame = customers.drop(columns=["churned", "price"])
    classifier = TableClassifier(max_epochs=18, **QUICK).fit(frame, customers["churned"])
    assert {*Path().iterdir()} == before
    assert capfd.readouterr() == ("", "")
    assert str(np.random.get_state()) == seed  # noqa: NPY002
    assert classifier.classes_.tolist() == ["no", "yes"]
    assert classifier.feature_names_in_.tolist() == [*frame]
    assert classifier.score(frame, customers["churned"]) > 0.85
    probabilities = classifier.predict_proba(frame)
    regressor = TableRegressor(max_epochs=18, **QUICK).fit(frame, customers["price"])
    values = regressor.predict(frame)
    assert r2_score(customers["price"], values) > 0.7

    classifier.save("models/churned.ckpt")
    regressor.save("models/price.ckpt")
    loaded = load("models/churned.ckpt")
    labels, same = loaded.predict(frame)
    np.testing.assert_allclose(same, probabilities, rtol=1e-5)
    assert labels == classifier.predict(frame).tolist()
    assert load("models/price.ckpt").card.target == "price"
    np.testing.assert_allclose(load("models/price.ckpt").predict(frame).values, values, rtol=1e-5)
    frame.to_csv("new.csv", index=False)
    result = kindling("predict", "--ckpt_path", "models/churned.ckpt", "--data.predict", "new.csv")
    assert result.code == 0, result.err
    written = pd.read_csv("models/churned/predictions_new.csv")
    assert written["prediction"].tolist() == labels
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(frame), probabilities)
    again = clone(classifier).fit(frame, customers["churned"])
    np.testing.assert_array_equal(again.predict_proba(frame), probabilities)


@pytest.mark.slow
def test_scikit_learn_validates_searches_and_inspects_them() -> None:
    inputs, labels = load_iris(return_X_y=True, as_frame=True)
    few = {"max_epochs": 40, **QUICK}
    pipeline = make_pipeline(StandardScaler(), TableClassifier(**few))
    scores = cross_validate(pipeline, inputs, labels, cv=3, scoring=("accuracy", "neg_log_loss"), error_score="raise")
    expected = cross_val_score(make_pipeline(StandardScaler(), LogisticRegression()), inputs, labels, cv=3).mean()
    assert scores["test_accuracy"].mean() > expected - 0.05
    search = GridSearchCV(
        TableClassifier(**few), {"max_epochs": [1, 40], "learning_rate": [0.01]}, cv=2, error_score="raise"
    ).fit(inputs, labels)
    assert search.best_params_["max_epochs"] == 40
    importance = permutation_importance(search.best_estimator_, inputs, labels, n_repeats=3, random_state=0)
    assert importance.importances_mean.argmax() in (2, 3)  # the petals, as every model of these flowers finds


@pytest.mark.slow
def test_a_regressor_is_as_good_as_another_model() -> None:
    inputs, values = load_diabetes(return_X_y=True)
    scores = cross_val_score(TableRegressor(max_epochs=30, **QUICK), inputs, values, cv=3, error_score="raise")
    assert scores.mean() > 0.38  # of ridge regression: 0.41


@pytest.mark.parametrize(
    "classes",
    [[10, 9], [True, False], ["", "a "], ["1", "1.0"], ["b", "a", "c"], [0.5, -2.0], ["True", "true"]],
    ids=repr,
)
def test_classes_come_back_as_they_were_given(classes: list[Any]) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, len(classes), 90)
    labels = np.array(classes)[codes]
    if set(map(type, classes)) == {float}:
        labels = labels.astype(object)
        labels = np.where(codes == 0, "0.5", "-2.0")
    inputs = codes[:, None] + random.normal(0, 0.1, (90, 2))
    model = TableClassifier(max_epochs=15, **QUICK).fit(inputs, labels)
    assert model.classes_.tolist() == np.unique(labels).tolist()
    predicted = model.predict(inputs)
    assert predicted.dtype == labels.dtype
    assert (predicted == labels).mean() > 0.95
    assert (model.classes_[model.predict_proba(inputs).argmax(axis=1)] == predicted).all()


def test_a_threshold_is_chosen_and_used(customers: pd.DataFrame) -> None:
    frame, labels = customers[["age", "plan"]], customers["churned"] == "yes"
    model = TableClassifier(max_epochs=8, threshold="positive_f1", positive_class=False, **QUICK).fit(frame, labels)
    network: Any = model.model_
    threshold = network.threshold
    assert model.classes_.tolist() == [False, True]
    assert (threshold.metric, network.class_names[threshold.positive]) == ("positive_f1", "false")
    chances = model.predict_proba(frame)[:, 0]
    assert (model.predict(frame) == (chances < threshold.value)).all()
    fixed = clone(model).set_params(threshold=0.1, positive_class=True).fit(frame, labels)
    assert (fixed.predict(frame) == (fixed.predict_proba(frame)[:, 1] >= 0.1)).all()
    assert f1_score(labels, fixed.predict(frame)) > 0.5
    fixed.save("model.ckpt")
    assert load("model.ckpt").card.threshold == pytest.approx(0.1)
    with pytest.raises(ValueError, match="threshold f1 needs two classes, but there are 3"):
        clone(model).set_params(threshold="f1", positive_class=None).fit(frame, np.arange(len(frame)) % 3)


def test_probabilities_are_calibrated(customers: pd.DataFrame) -> None:
    frame, labels = customers[["age", "plan"]], customers["churned"]
    smooth = QUICK["model_options"] | {"label_smoothing": 0.4}
    options = QUICK | {"model_options": smooth, "validation_fraction": 0.4}
    model = TableClassifier(max_epochs=8, **options).fit(frame, labels)
    raw = clone(model).set_params(model_options=smooth | {"softmax_temperature": 1}).fit(frame, labels)
    network: Any = model.model_
    assert network.softmax_temperature < 0.8
    logits = np.log(raw.predict_proba(frame)) / network.softmax_temperature
    np.testing.assert_allclose(model.predict_proba(frame), softmax(logits, axis=1), atol=1e-5)
    assert (model.predict(frame) == raw.predict(frame)).all()
    assert log_loss(labels, model.predict_proba(frame)) < log_loss(labels, raw.predict_proba(frame))
    model.save("model.ckpt")
    np.testing.assert_allclose(load("model.ckpt").predict(frame).probabilities, model.predict_proba(frame), atol=1e-6)


def test_verbose_prints_epochs_and_warnings(customers: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    frame = customers[["age"]].assign(same=1)
    model = TableRegressor(max_epochs=1, verbose=True, **QUICK).fit(frame, customers["price"])
    assert "epoch 1/1" in capfd.readouterr().out
    assert model.left_out_ == {"same": "constant"}


def test_what_does_not_fit_is_refused(customers: pd.DataFrame) -> None:
    frame, labels = customers[["age", "plan"]], customers["churned"]
    with pytest.raises(ValueError, match=r"two columns|unique column names"):
        TableClassifier().fit(pd.concat([frame, frame[["age"]]], axis=1), labels)
    with pytest.raises(ValueError, match="there is no recipe table_cnn"):
        TableClassifier(recipe="table_cnn").fit(frame, labels)
    with pytest.raises(ValueError, match="quickstart is not a recipe for tables: its data must be a TableDataModule"):
        TableClassifier(recipe="quickstart").fit(frame, labels)
    with pytest.raises(ValueError, match="only one class"):
        TableClassifier().fit(frame, labels.replace("yes", "no"))
    with pytest.raises(ValueError, match="TabMClassifier has no option width"):
        TableClassifier(model_options={"width": 3}).fit(frame, labels)
    with pytest.raises(ValueError, match="val_split"):
        TableClassifier(validation_fraction=1.5).fit(frame, labels)


def test_texts_are_read_as_by_the_command() -> None:
    random = np.random.default_rng(0)
    prices = random.uniform(1, 2000, 200).round(2)
    texts = pd.Series([f"{price:,.2f} €".translate(str.maketrans(",.", ".,")) for price in prices], name="price")
    costs = pd.Series([f"{price / 2 + 3:.2f}".replace(".", ",") for price in prices], name="cost")
    assert texts[0] == "1.274,29 €"
    fitted = TableRegressor(max_epochs=20, **QUICK).fit(costs.to_frame(), texts)
    frame = costs.to_frame().assign(price=texts)
    module = TableDataModule.of_frame(frame, "price", task="regression", split_seed=1)
    module.setup("fit")
    [column] = fitted.columns_
    assert {name: column[name] for name in ("kind", "decimal")} == {"kind": "number", "decimal": ","}
    assert column.keys() == module.fitted["columns"][0].keys()
    assert fitted._checkpoint["TableDataModule"]["target"].items() >= {"decimal": ",", "units": ["€"]}.items()
    score = r2_score(prices, fitted.predict(costs.to_frame()))
    assert score > 0.9
    assert fitted.score(costs.to_frame(), texts) == pytest.approx(score)
    assert cross_val_score(TableRegressor(max_epochs=20, **QUICK), costs.to_frame(), texts, cv=2).min() > 0.8


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_command_that_needs_the_samples_says_so(kindling: Command, customers: pd.DataFrame, command: str) -> None:
    rows, target = customers[["age", "plan"]], customers["churned"]
    TableClassifier(max_epochs=1, **QUICK).fit(rows, target).save("churned.ckpt")
    result = kindling(command, "--ckpt_path", "churned.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "trained on a data frame, which its checkpoint does not contain: add --data.test_path FILE" in result.err
    rows.assign(churned=target).to_csv("new.csv", index=False)
    option = {"test": ["--data.test_path", "new.csv"], "predict": ["--data.predict", "new.csv"]}
    assert command == "validate" or kindling(command, "--ckpt_path", "churned.ckpt", *option[command]).code == 0


def test_a_class_with_one_row_is_trained_on(customers: pd.DataFrame) -> None:
    labels = customers["churned"].to_numpy().copy()
    labels[3] = "maybe"
    model = TableClassifier(max_epochs=1, **QUICK).fit(customers[["age", "plan"]], labels)
    assert model.predict_proba(customers[["age", "plan"]]).shape == (len(labels), 3)
