"""Tables whose target is numbers."""

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from numpy.typing import NDArray
from sklearn.metrics import r2_score

from conftest import Command
from kindling import MLPClassifier, MLPRegressor
from kindling.cli import main
from kindling.runs.checkpoints import read_checkpoint
from kindling.testing import check_data, check_model, check_recipe
from rows import predictions, read

pytestmark = pytest.mark.usefixtures("console_logs")

FIT = (
    "fit --config table_mlp --data.path houses.csv --data.target price --trainer.max_epochs 4 --run_name houses "
    "--model.hidden [16]"
).split()
RUN = Path("runs/houses/version_0")


def houses(number: int = 400) -> pd.DataFrame:
    """Return rows of houses whose price depends on size, town and age."""
    random = np.random.default_rng(0)
    size, town, built = (
        random.uniform(40, 200, number),
        random.integers(0, 60, number),
        random.integers(1950, 2020, number),
    )
    effect = random.normal(0, 40_000, 60)
    price = 3000 * size + effect[town] + 800 * (built - 1950) + random.normal(0, 15_000, number) + 50_000
    return pd.DataFrame(
        {
            "size": size.round(1),
            "town": [f"town {code}" for code in town],
            "built": built,
            "garage": random.choice(["yes", "no"], number),
            "price": [f"${value:,.2f}" for value in price],
        }
    )


@pytest.fixture
def table(folder: Path) -> pd.DataFrame:
    """Write houses.csv in the current folder and return its rows."""
    frame = houses()
    frame.to_csv("houses.csv", index=False)
    return frame


def numbers(texts: "pd.Series[Any]") -> NDArray[np.float64]:
    return np.array([float(text.replace("$", "").replace(",", "")) for text in texts])


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with houses.csv and a model trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        houses().to_csv("houses.csv", index=False)
        assert main(FIT) == 0
    return folder


@pytest.fixture
def trained(trained_folder: Path, folder: Path, table: pd.DataFrame) -> Path:
    """Copy the run of that model to the current folder."""
    shutil.copytree(trained_folder / "runs", folder / "runs")
    return RUN


def test_a_regression_target_is_learned_and_predicted_for_new_rows(
    kindling: Command, trained: Path, table: pd.DataFrame
) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    split = pd.read_csv(trained / "split.csv")["split"]
    assert split.value_counts().to_dict() == {"train": 290, "test": 80, "val": 30}
    tested = predictions(trained / "predictions.csv")
    prices = numbers(table["price"][split == "test"])
    labels, predicted = (np.array([float(line[name]) for line in tested]) for name in ("target", "prediction"))
    assert [int(line["row"]) for line in tested] == split.index[split == "test"].tolist()
    assert labels == pytest.approx(prices, rel=1e-6)
    metrics = json.loads((trained / "test_metrics.json").read_text())
    assert metrics.keys() == {"test/loss", "test/mae", "test/rmse", "test/r2"}
    assert metrics["test/mae"] == pytest.approx(mean_absolute_error(prices, predicted), rel=1e-5)
    assert metrics["test/rmse"] == pytest.approx(root_mean_squared_error(prices, predicted), rel=1e-5)
    assert metrics["test/r2"] == pytest.approx(r2_score(prices, predicted), rel=1e-5)
    trained_on = numbers(table["price"][split == "train"])
    assert metrics["test/loss"] == pytest.approx((metrics["test/rmse"] / trained_on.std(ddof=1)) ** 2, rel=1e-5)

    # The same rows as new ones: in another style, no target, and the training file is gone.
    Path("houses.csv").unlink()
    new = table[split == "test"].drop(columns="price")
    new.to_csv("new.csv", index=False, sep=";", decimal=",")
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv")
    assert result.code == 0, result.err
    lines = predictions(trained / "predictions_new.csv")
    assert lines[0].keys() == {"row", "prediction"}
    assert [float(line["prediction"]) for line in lines] == pytest.approx(predicted, rel=1e-5)


@pytest.mark.slow
def test_the_run_names_the_model_that_was_built(kindling: Command, trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["class_path"] == "kindling.models.tabm.TabMRegressor"
    assert config["model"]["init_args"]["hidden"] == [16]
    assert "label_smoothing" not in config["model"]["init_args"]
    stored = read_checkpoint(trained / "checkpoints/best.ckpt")
    assert stored["hyper_parameters"]["_class_path"] == "kindling.models.tabm.TabMRegressor"
    assert not {"label_smoothing", "num_classes"} & stored["hyper_parameters"].keys()
    assert "classes" not in stored["TableDataModule"]
    assert stored["TableDataModule"] == read("houses.csv", "price").fitted
    for command in ("validate", "test", "predict"):
        result = kindling(command, "--ckpt_path", "best")
        assert (result.code, "instead of" in result.err) == (0, False), result.err
    again = kindling("fit", "--config", trained / "config.yaml", "--trainer.max_epochs", "1", "--run_name", "again")
    assert (again.code, "instead of" in again.err) == (0, False), again.err
    listed = kindling("runs")
    assert listed.code == 0
    assert "houses" in listed.out


def test_a_killed_run_resumes_to_the_same_weights(kindling: Command, trained: Path) -> None:
    expected = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    callback = json.dumps([{"class_path": "helpers.SignalAt", "init_args": {"step": 20}}])
    assert kindling(*FIT, "--run_name", "cut", "--trainer.callbacks", callback).code == 1
    resumed_run = kindling("fit", "--ckpt_path", "runs/cut", "--trainer.callbacks", "null")
    assert resumed_run.code == 0, resumed_run.err
    resumed = torch.load("runs/cut/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_target_is_read_like_a_feature() -> None:
    plain = houses()
    prices = numbers(plain["price"])
    plain.assign(price=prices).to_csv("plain.csv", index=False)
    german = [f"{price:,.2f} €".translate(str.maketrans(",.", ".,")) for price in prices]
    plain.assign(price=german).to_csv("german.csv", index=False, sep=";")
    missing = plain.assign(price=prices.round(2).astype(object))
    missing.loc[::50, "price"], missing.loc[7, "price"], missing.loc[9, "price"] = "", "NA", "ask us"
    missing.to_csv("missing.csv", index=False)
    expected = read("plain.csv", "price")
    data = read("german.csv", "price")
    assert data.task == "regression"
    assert data.fitted["target"]["decimal"] == ","
    assert data.fitted["target"]["units"] == ["€"]
    assert torch.equal(data.train.labels, expected.train.labels)
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert data.train.labels.dtype == torch.float32
    gaps = read("missing.csv", "price", missing="ask us")
    assert np.flatnonzero(gaps.splits == "left out").tolist() == sorted({7, 9, *range(0, 400, 50)})


def test_a_test_file_may_be_written_in_another_style(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    german = [f"{price:,.2f}".translate(str.maketrans(",.", ".,")) for price in numbers(table["price"])]
    other = table.assign(price=german, size=table["size"].map(lambda size: str(size).replace(".", ",")))
    other.loc[3, "price"] = None
    other.to_csv("test.csv", index=False, sep=";")
    data = read("houses.csv", "price", test_path="test.csv")
    data.setup("test")
    assert data.test.labels.numpy() == pytest.approx(np.delete(numbers(table["price"]), 3), rel=1e-6)
    said = capfd.readouterr().err
    assert "left out: 1 row of test.csv without price" in said
    assert "column price of test.csv has no $, unlike in training" in said
    euros, odd = table.assign(price=table["price"].str.replace("$", "€")), table.copy()
    odd.loc[5, "price"] = "12 to 15"
    for frame, words in (
        (euros, "column price of other.csv is in €, but was in $ in training: convert it"),
        (odd, "column price of other.csv: row 5 (counted from 0, line 7) holds 12 to 15, not a number: correct it"),
    ):
        frame.to_csv("other.csv", index=False)
        with pytest.raises(ValueError, match=re.escape(words)):
            read("houses.csv", "price", test_path="other.csv")


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([*range(10)] * 20, "classification"),
        (["0", "1"] * 100, "classification"),
        ([0.5, 1.0, 1.5, 2.0] * 50, "classification"),
        ([1990 + year % 15 for year in range(200)], "classification"),
        ([code % 30 for code in range(600)], "classification"),  # 20 rows of each
        ([code % 30 for code in range(200)], "regression"),
        ([f"{value / 7:.2f}" for value in range(200)], "regression"),
        ([f"{value % 18 + 0.2:.1f}".replace(".", ",") + " cm" for value in range(100)], "regression"),  # few, but rare
        ([f"1,{value:03}" for value in range(200)], "regression"),
        ([f"v{value % 21}" for value in range(200)], "classification"),
    ],
)
def test_the_values_decide_the_task(values: list[Any], task: str, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=len(values)), "y": values})
    frame.to_csv("data.csv", index=False)
    data = read("data.csv", "y")
    assert data.task == task
    assert hasattr(data, "class_names") == hasattr(data, "class_counts") == (task == "classification")
    distinct, said = len({*values}), capfd.readouterr().err
    line = f"y: {distinct} distinct numbers, so regression (--data.task classification for classes)"
    assert (line in said.splitlines()) == (task == "regression")
    if distinct < 20:
        numeric = read("data.csv", "y", task="regression")
        assert numeric.train.labels.is_floating_point()


def test_an_integer_target_of_many_values_may_be_classes(capfd: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"x": [row % 7 for row in range(600)], "y": [row % 30 for row in range(600)]}).to_csv("data.csv")
    read("data.csv", "y")
    assert "y: 30 distinct numbers, so classes (--data.task regression for numbers)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        (
            ["a", "b"],
            {},
            "column y of data.csv: row 0 (counted from 0, line 2) holds a, not a number, which --data.task reg",
        ),
        ([1, 2, "three"], {}, "column y of data.csv: row 2 (counted from 0, line 4) holds three, not a number"),
        (["2024-01-31", "2024-02-03"], {}, "y of data.csv holds dates or times, such as 2024-01-31: a model predicts"),
        ([f"{row % 28 + 1}.5.2024 9:{row}" for row in range(10, 60)], {"task": "auto"}, "such as 11.5.2024 9:10: a mo"),
        ([f"1:{row:02}:59" for row in range(60)], {"task": "auto"}, "replace them with numbers, such as days or min"),
        (
            [5],
            {"task": "auto"},
            "column y of data.csv has only one value (5); a model needs at least two distinct values",
        ),
        ([5], {}, "column y of data.csv has only one value (5); a regression model needs at least two distinct values"),
        ([""], {}, "column y of data.csv has no values"),
        ([1.5, *[""] * 98, 2], {}, "column y of data.csv has 2 values, and train, test and val each need one"),
        ([*range(99), "1e30"], {}, "row 99 (counted from 0, line 101) holds 1e30, larger than 1e+15: correct it"),
        (
            [*range(99), "1,5,3"],
            {},
            "row 99 (counted from 0, line 101) holds 1,5,3, not a number: correct it, or if it means",
        ),
        (
            [*range(100)],
            {"task": "classification"},
            "100 distinct values (100 of them in fewer than 3 rows), too many f",
        ),
        ([*range(20)] * 5, {"task": "auto", "val_split": 1.0}, "`val_split` must hold out"),
    ],
)
def test_a_target_that_does_not_fit_the_task_is_named(
    target: list[object], arguments: dict[str, Any], words: str
) -> None:
    values = (target * 100)[:100]
    pd.DataFrame({"x": np.arange(100) % 7, "y": values}).to_csv("data.csv", index=False)
    with pytest.raises(ValueError, match=r"data\.csv|split") as error:
        read("data.csv", "y", **{"task": "regression"} | arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_splits_hold_the_same_range_of_numbers(table: pd.DataFrame) -> None:
    data, prices = read("houses.csv", "price"), numbers(table["price"])
    deciles = np.searchsorted(np.quantile(prices, np.arange(1, 10) / 10), prices)
    for split in ("train", "val", "test"):
        shares = np.bincount(deciles[data.splits == split], minlength=10) / (data.splits == split).sum()
        assert shares == pytest.approx(0.1, abs=0.02)
    assert (data.splits == read("houses.csv", "price").splits).all()
    assert (data.splits != read("houses.csv", "price", split_seed=1).splits).any()
    check_data(data)


def test_categories_are_encoded_by_the_mean_of_the_target() -> None:
    random = np.random.default_rng(1)
    shop = random.integers(0, 60, 900)
    sales = random.normal(0, 1, 60)[shop] * 30 + random.normal(0, 20, 900) + 100
    pd.DataFrame({"shop": [f"s{code:02}" for code in shop], "sales": sales.round(3)}).to_csv("sales.csv", index=False)
    data = read("sales.csv", "sales")
    rows = pd.read_csv("sales.csv").assign(split=data.splits)
    train = rows[rows["split"] == "train"]
    center = train["sales"].median()
    low, high = (train["sales"].sort_values().iloc[place] for place in (len(train) // 20, -1 - len(train) // 20))
    ratio = (rows["sales"] - center) / max(high - center, center - low)
    rows["scaled"] = ratio / np.sqrt(1 + ratio**2 / 25)
    train = rows[rows["split"] == "train"]
    groups = train.groupby("shop")["scaled"].agg(["sum", "size"])
    within = ((train["scaled"] - train.groupby("shop")["scaled"].transform("mean")) ** 2).sum() / (len(train) - 60)
    means = groups["sum"] / groups["size"]
    between = (groups["size"] * (means - train["scaled"].mean()) ** 2).sum() / 59
    size = (len(train) - (groups["size"] ** 2).sum() / len(train)) / 59
    smoothing = size * within / (between - within)
    expected = (groups["sum"] + smoothing * train["scaled"].mean()) / (groups["size"] + smoothing)
    [column] = data.fitted["columns"]
    assert column["smoothing"] == pytest.approx(smoothing, rel=1e-4)
    learned = dict(zip(column["known"], np.ravel(column["encodings"]).tolist(), strict=True))
    assert learned == pytest.approx(expected.to_dict(), abs=2e-6)
    held_out = data.load("test")[0][:, -1].numpy()
    assert held_out == pytest.approx(expected[rows["shop"][rows["split"] == "test"]].to_numpy(), abs=2e-6)
    # Training rows: each from the other folds.
    folds = np.random.RandomState(0).permutation(len(train)) % 5
    for fold in range(5):
        others = train[folds != fold].groupby("shop")["scaled"].agg(["sum", "size"])
        means = (others["sum"] + smoothing * train["scaled"].mean()) / (others["size"] + smoothing)
        found = data.train.inputs[:, -1].numpy()[folds == fold]
        assert found == pytest.approx(means[train["shop"][folds == fold]].to_numpy(), abs=1e-5)


def test_copies_of_the_target_are_named(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    prices = numbers(table["price"])
    copies = {"net": prices / 1.19, "rank": -prices.round(-3), "log_price": np.log(prices)}
    table.assign(**copies, rent=prices / 300 + np.random.default_rng(0).normal(0, 100, 400)).to_csv(
        "houses.csv", index=False
    )
    read("houses.csv", "price")
    line = "possible target leakage: net, rank, log_price each determine the target; to leave them out, --data.drop"
    assert line in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--model.label_smoothing 0.1", 2, "it has no label_smoothing: remove --model.label_smoothing"),
        (
            "--model helpers.Detached",
            1,
            "Detached predicts classes, but the targets are numbers: use a regression m",
        ),
        (
            "--model TabMRegressor --data.target garage",
            1,
            "TabMRegressor predicts numbers, but the targets are classes: use a classifier, or --data.task regression",
        ),
        (
            "--data.task regression --data.target garage",
            1,
            "column garage of houses.csv: row 0 (counted from 0, line 2) holds",
        ),
        (
            "--model.loss_function huber",
            2,
            "huber is not one of cross_entropy, focal; for regression targets, add --model TabMRegressor",
        ),
        (
            "--model.quantile 0.9",
            2,
            "TabMClassifier has no option model.quantile; for regression targets, add --model TabMRegressor",
        ),
        ("--model.loss_function focal", 1, "loss_function must be one of mse, mae, huber, quantile, got focal"),
        ("--model TabMRegressor --model.loss_function quantile --model.quantile 1", 1, "quantile must be between 0 an"),
        ("--model TabMRegressor --model.quantile 0.9", 1, "quantile has no effect with loss_function mse: use loss_f"),
    ],
)
def test_a_model_that_does_not_fit_the_target_is_named(
    kindling: Command, table: pd.DataFrame, options: str, code: int, words: str
) -> None:
    result = kindling(*FIT, *options.split())
    assert (result.code, words in result.err.splitlines()[-1]) == (code, True), result.err
    assert not Path("runs").exists()


def test_a_loss_of_a_regression_model_can_be_chosen(kindling: Command, table: pd.DataFrame) -> None:
    options = "--model TabMRegressor --model.loss_function quantile --model.quantile 0.9 --model.optimizer.lr 0.02"
    result = kindling(*FIT, *options.split(), "--trainer.max_epochs", "6", "--model.dropout", "0")
    assert result.code == 0, result.err
    lines = predictions(RUN / "predictions.csv")
    below = np.mean([float(line["target"]) <= float(line["prediction"]) for line in lines])
    assert 0.7 <= below < 1


def test_one_wild_target_is_named_and_has_a_remedy(kindling: Command) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-2, 2, 400)
    y = 2 * x + random.normal(0, 0.1, 400)
    y[17] = 1e12
    pd.DataFrame({"x": x, "y": y}).to_csv("wild.csv", index=False)
    fit = (
        "fit --config table_mlp --data.path wild.csv --data.target y --trainer.max_epochs 5 --run_name tables "
        "--model.optimizer.lr 0.01 --model.dropout 0 --data.batch_size 16"
    ).split()
    missing, loss = "--data.missing '[\"1000000000000\"]'", "--model.loss_function huber"
    model, said = "", []
    for remedy in (missing, f"{loss} --model "):
        result = kindling(*fit, *shlex.split(remedy + model))
        assert result.code == 0, result.err
        model = "".join(re.findall(r"^model: (\w+) instead of", result.out + result.err, re.MULTILINE))
        said += [line for line in result.err.splitlines() if "far from the others" in line]
        found = pd.read_csv("runs/tables/version_0/predictions.csv").query("target < 10")
        assert r2_score(found.target, found.prediction) > 0.9
        assert "TabMRegressor" in Path("runs/tables/version_0/config.yaml").read_text()  # the network of the recipe
        shutil.rmtree("runs")
    [line] = said
    assert line.startswith("column y of wild.csv: 1 of 400 numbers is far from the others, such as 1000000000000.0 in")
    assert f"{missing}, or limit its effect with {loss} (and --model NAME, if the model NAME replaced a class" in line
    assert len(line) < 300


def test_diagnostics_work_for_regression(kindling: Command, table: pd.DataFrame) -> None:
    result = kindling(*FIT, "--overfit", "--find_lr", "--model.hidden", "[64]")
    assert result.code == 0, result.err
    assert "the network can overfit one batch of 32 samples: loss" in result.out + result.err
    assert "learning rate:" in result.out + result.err


def test_the_task_of_a_checkpoint_wins_over_a_typed_one(kindling: Command, trained: Path) -> None:
    result = kindling("test", "--ckpt_path", "best", "--data.task", "classification")
    assert result.code == 1
    assert "--data.task classification: the checkpoint was trained for regression" in result.err


def test_python_refuses_a_model_of_another_task(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="MLPClassifier predicts classes, but the targets are numbers"):
        MLPClassifier.for_data(read("houses.csv", "price"))
    assert MLPRegressor.for_data(read("houses.csv", "price")).input_shape == read("houses.csv", "price").input_shape
    with pytest.raises(ValueError, match="MLPRegressor predicts numbers, but the targets are classes"):
        MLPRegressor.for_data(read("houses.csv", "garage"))


def test_the_checks_for_projects_support_regression(table: pd.DataFrame) -> None:
    optimizer = partial(torch.optim.Adam, lr=0.01)
    check_model(MLPRegressor, read("houses.csv", "price", batch_size=32), hidden=(64,), optimizer=optimizer, formats=[])
    check_recipe("table_mlp", "--data.path", "houses.csv", "--data.target", "price")


@pytest.mark.slow
def test_the_recipe_is_about_as_good_as_ridge_regression(kindling: Command) -> None:
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import root_mean_squared_error
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, progress = load_diabetes(return_X_y=True, scaled=False)
    pd.DataFrame(features).assign(progress=progress).to_csv("diabetes.csv", index=False)
    ours, theirs = [], []
    for seed in range(3):
        options = f"--data.path diabetes.csv --data.target progress --data.split_seed {seed} --run_name {seed}"
        result = kindling("fit", "--config", "table_mlp", *options.split())
        assert result.code == 0, result.err
        ours.append(json.loads(Path(f"runs/{seed}/version_0/test_metrics.json").read_text())["test/rmse"])
        test = (pd.read_csv(f"runs/{seed}/version_0/split.csv")["split"] == "test").to_numpy()
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 20))).fit(features[~test], progress[~test])
        theirs.append(root_mean_squared_error(progress[test], ridge.predict(features[test])))
    print(f"diabetes: {np.mean(ours):.2f}, ridge regression {np.mean(theirs):.2f}")
    assert np.mean(ours) <= 1.05 * np.mean(theirs)
