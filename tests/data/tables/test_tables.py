import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Command
from kindling.cli import main
from kindling.deploy.predictor import load
from kindling.runs.checkpoints import read_checkpoint
from rows import FIT, customers, predictions, read

pytestmark = pytest.mark.usefixtures("console_logs")


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with customers.csv and a model trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        customers().to_csv("customers.csv", index=False)
        assert main(FIT) == 0
    return folder


@pytest.fixture
def trained(trained_folder: Path, folder: Path, table: pd.DataFrame) -> Path:
    """Copy the run of that model to the current folder."""
    shutil.copytree(trained_folder / "runs", folder / "runs")
    return Path("runs/tables/version_0")


def test_a_table_is_trained_on_and_new_rows_are_predicted(
    kindling: Command, trained: Path, table: pd.DataFrame
) -> None:
    split = pd.read_csv(trained / "split.csv")
    assert split["row"].tolist() == list(range(200))
    assert split["split"].value_counts().to_dict() == {"train": 144, "test": 40, "val": 16}
    assert kindling("predict", "--ckpt_path", "best").code == 0
    tested = predictions()
    assert [int(line["row"]) for line in tested] == split.index[split["split"] == "test"].tolist()

    # The same rows as new ones: columns in another order, one more, no target, and the training file is gone.
    Path("customers.csv").unlink()
    new = table[split["split"] == "test"].drop(columns=["churned", "name"])[::-1]
    new[new.columns[::-1]].assign(more=1).to_csv("new.csv", index=False)
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv")
    assert result.code == 0, result.err
    lines = predictions(trained / "predictions_new.csv")
    assert [line.pop("row") for line in lines] == [str(row) for row in range(40)]
    for line in tested:
        del line["row"]
    first = load(trained).predict(new[::-1].iloc[0].to_dict())  # in Python, a row as a dictionary
    assert first.labels == [tested[0]["prediction"]]
    assert float(tested[0]["yes"]) == pytest.approx(first.probabilities[0, 1], abs=1e-5)
    for ours, theirs in zip(lines[::-1], tested, strict=True):
        assert ours.keys() == {"customer_id", "prediction", "probability", "no", "yes"}
        assert ours["customer_id"] == theirs["customer_id"]
        assert ours["prediction"] == theirs["prediction"]
        assert float(ours["yes"]) == pytest.approx(float(theirs["yes"]), abs=1e-5)


def test_a_checkpoint_holds_what_was_learned(trained: Path) -> None:
    learned = read_checkpoint(trained / "checkpoints/best.ckpt")["TableDataModule"]
    assert learned == read().fitted == json.loads(json.dumps(learned))
    assert learned["left_out"].keys() == {"customer_id", "name", "country"}


def test_splits_keep_the_share_of_each_class_and_follow_their_seed(table: pd.DataFrame) -> None:
    splits = read(test_split=50, val_split=0.2).splits
    assert {name: (splits == name).sum() for name in ("train", "val", "test")} == {"train": 120, "val": 30, "test": 50}
    for name in ("train", "val", "test"):
        share = (table["churned"][splits == name] == "yes").mean()
        assert share == pytest.approx((table["churned"] == "yes").mean(), abs=0.04)
    assert (splits == read(test_split=50, val_split=0.2).splits).all()
    assert (splits != read(test_split=50, val_split=0.2, split_seed=1).splits).any()


def test_classes_are_sorted_and_rows_without_one_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    classes = ["10", "9", "", "2", "?"] * 12
    Path("grades.csv").write_text("size,grade\n" + "".join(f"{row % 11},{name}\n" for row, name in enumerate(classes)))
    data = read("grades.csv", "grade", missing="?")
    assert data.class_names == ("2", "9", "10")
    assert (data.splits == "left out").sum() == 24
    assert "left out: 24 rows of grades.csv without grade" in capfd.readouterr().err
    data.setup("test")
    assert [classes[row] for row in data.tested_rows()] == [  # type: ignore[call-overload]
        data.class_names[label] for label in data.test.labels
    ]


@pytest.mark.parametrize("names", [("NA", "EU"), ("None", "gold"), ("null", "nan"), ("-", "none"), ("?", "unknown")])
def test_classes_may_be_called_na_or_none(
    table: pd.DataFrame, names: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    table["churned"] = table["churned"].map({"no": names[0], "yes": names[1]})
    table.loc[:11, "churned"] = ["", " "] * 6
    table.to_csv("customers.csv", index=False)
    data = read()
    assert data.class_names == tuple(sorted(names))
    assert sum(data.class_counts) == data.train.labels.shape[0] == (data.splits == "train").sum()
    said = capfd.readouterr().err
    assert "left out: 12 rows of customers.csv without churned" in said
    words = [*{*names} - {"EU", "gold"}]
    one, many = "class {}: if it means missing, --data.missing", "classes {}: if they mean missing, --data.missing"
    assert f"has the {(one if len(words) == 1 else many).format(', '.join(sorted(words)))}" in said


@pytest.mark.slow
def test_a_separate_test_file_is_used(kindling: Command, table: pd.DataFrame) -> None:
    extra = customers(230)[200:]
    extra.loc[203, "churned"] = None
    extra.to_csv("extra.csv", index=False)
    result = kindling(*FIT, "--data.test_path", "extra.csv")
    assert result.code == 0, result.err
    assert set(pd.read_csv("runs/tables/version_0/split.csv")["split"]) == {"train", "val"}
    data = read(test_path="extra.csv")
    data.setup("test")
    assert "left out: 1 row of extra.csv without churned" in result.err
    assert data.tested_rows() == [0, 1, 2, *range(4, 30)]
    facts = data.sample_details(3)
    assert facts == {name: None if pd.isna(value) else str(value) for name, value in extra.iloc[4].items()}
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert [int(line["row"]) for line in predictions()] == data.tested_rows()


@pytest.mark.slow
def test_a_given_split_decides(kindling: Command, table: pd.DataFrame) -> None:
    names = ["train", "val", "test", "train"] * 50
    split = pd.DataFrame({"row": range(200), "split": names})[::-1]
    split.to_csv("mine.csv", index=False)
    result = kindling(*FIT, "--data.split", "mine.csv")
    assert result.code == 0, result.err
    assert pd.read_csv("runs/tables/version_0/split.csv")["split"].tolist() == names
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert [int(line["row"]) for line in predictions()] == list(range(2, 200, 4))


@pytest.mark.slow
def test_the_splits_of_a_run_are_kept(kindling: Command, trained: Path) -> None:
    before = json.loads((trained / "test_metrics.json").read_text())
    # Another seed would split anew; the run's own split.csv goes before it.
    assert kindling("test", "--ckpt_path", "best", "--data.split_seed", "7").code == 0
    assert json.loads((trained / "test_metrics.json").read_text()) == before
    customers(220).to_csv("customers.csv", index=False)
    result = kindling("test", "--ckpt_path", "best")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "splits 200 rows, but customers.csv has 220" in result.err
    customers(220).to_csv("new.csv", index=False)
    assert kindling("test", "--ckpt_path", "best", "--data.test_path", "new.csv").code == 0


def test_training_rows_are_never_tested(kindling: Command, trained: Path, table: pd.DataFrame) -> None:
    shutil.copy(trained / "checkpoints/best.ckpt", "copied.ckpt")
    assert kindling("validate", "--ckpt_path", "copied.ckpt").code == 0
    table.to_csv("same.csv", index=False, sep=";")
    assert kindling("test", "--ckpt_path", trained, "--data.path", "same.csv").code == 0
    cases: list[tuple[pd.DataFrame, Any, list[str], list[str]]] = [
        (table[::-1], trained, [], ["test", "validate", "predict"]),  # as many rows in another order
        (pd.concat([table, table[:40]]), "copied.ckpt", [], ["test"]),
        (table, "copied.ckpt", ["--data.split_seed", "7"], ["test"]),
    ]
    for rows, checkpoint, options, commands in cases:
        rows.to_csv("customers.csv", index=False)
        for command in commands:
            result = kindling(command, "--ckpt_path", checkpoint, *options)
            assert (result.code, result.err.count("\n")) == (1, 1)
            assert "customers.csv or its split changed since training" in result.err
            assert "--data.test_path" in result.err
    assert kindling("test", "--ckpt_path", checkpoint, *options, "--data.test_path", "same.csv").code == 0
    table.to_csv("customers.csv", index=False)
    result = kindling("test", "--ckpt_path", trained, "--data.test_path", "./customers.csv")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "`test_path` ./customers.csv is `path` itself, whose rows are trained on: leave it out" in result.err


def test_a_rare_class_is_in_each_split_whatever_the_seed(table: pd.DataFrame) -> None:
    table.loc[[3, 77, 150], "churned"] = "rarely"
    table.to_csv("customers.csv", index=False)
    tested = set()
    for seed in range(8):
        splits = read(split_seed=seed).splits
        assert sorted(splits[[3, 77, 150]]) == ["test", "train", "val"]
        tested.add(int(np.flatnonzero((splits == "test") & (table["churned"] == "rarely"))[0]))
    assert len(tested) > 1


def test_a_given_split_that_lacks_classes_is_named(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    names = np.where(np.arange(200) % 4 == 0, "test", "train").astype(object)
    names[(table["churned"] == "yes") & (np.arange(200) % 4 == 1)] = "val"
    split = pd.DataFrame({"row": range(200), "split": names})
    split.to_csv("mine.csv", index=False, sep=";", encoding="utf-8-sig")  # as Excel saves it
    assert read(split="mine.csv").splits.tolist() == names.tolist()
    assert "val has no rows of no" in capfd.readouterr().err.splitlines()


def test_classes_that_differ_only_in_case_are_reported(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    table.loc[::5, "churned"] = table["churned"][::5].str.title()
    table.to_csv("customers.csv", index=False)
    read()
    assert "churned of customers.csv has classes that differ only in case: No, Yes, no" in capfd.readouterr().err


def test_training_does_not_resume_with_another_table(kindling: Command, trained: Path, table: pd.DataFrame) -> None:
    more = ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    table.assign(age=table["age"] + 1).to_csv("customers.csv", index=False)
    result = kindling(*more)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "customers.csv is not the data that the checkpoint was trained on" in result.err
    table.to_csv("customers.csv", index=False)
    for options, reason in {
        ("--data.drop", "[age]"): "its columns are without age",
        ("--data.missing", "gold"): "its rows or its split changed",
        ("--data.split", "null", "--data.split_seed", "7"): "its rows or its split changed",
    }.items():
        result = kindling(*more, *options)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert f"customers.csv is not the data that the checkpoint was trained on: {reason}" in result.err
    assert kindling(*more).code == 0


@pytest.mark.slow
def test_training_resumes_with_the_encoders_of_the_checkpoint(kindling: Command, trained: Path) -> None:
    before, path = read().fitted, trained / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for column in checkpoint["TableDataModule"]["columns"]:
        column["missing_values"] = ["as another version may learn"]
    torch.save(checkpoint, path)
    result = kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert result.code == 0, result.err
    learned = read_checkpoint(path)["TableDataModule"]
    assert {column["missing_values"][0] for column in learned["columns"]} == {"as another version may learn"}
    assert learned["digest"] == before["digest"]


@pytest.mark.slow
def test_a_question_mark_may_stand_for_missing(kindling: Command, table: pd.DataFrame) -> None:
    table.loc[::9, "plan"] = "?"
    table.to_csv("customers.csv", index=False)
    for option in (["--data.missing", "?"], ["--data.missing=?"]):
        result = kindling(*FIT, *option, "--trainer.fast_dev_run", "true")
        assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "nowhere.csv"}, "nowhere.csv not found"),
        ({"path": "configs"}, "configs is a folder: use a CSV or Parquet file"),
        (
            {"target": "churnt"},
            "customers.csv has no column churnt as the target: did you mean churned? It has customer_",
        ),
        (
            {"target": "zzz"},
            "no column zzz as the target. It has customer_id, name, age, spent, plan, visits, member, ab",
        ),
        ({"drop": ["vists"]}, "`drop`: customers.csv has no column vists: did you mean visits? It has customer_id, "),
        ({"drop": ["age", "vists", "zzz"]}, "`drop`: customers.csv has no columns vists, zzz. It has customer_id, na"),
        ({"drop": ["age", "spent", "plan", "visits", "member", "abroad"]}, "no feature columns are left"),
        (
            {"target": "spent", "task": "classification"},
            "of them in fewer than 3 rows), too many for classes: add --data.task regression",
        ),
        (
            {"target": "name"},
            "column name of customers.csv has 200 distinct values (200 of them in fewer than 3 rows), too many for cla",
        ),
        (
            {"target": "country"},
            "column country of customers.csv has only one class (UK); a classifier needs at least two classes",
        ),
        (
            {"path": "few.csv"},
            "column churned of few.csv has only one class (no) and 50 rows without one; a classifier needs at least",
        ),
        ({"test_split": 0}, "`test_split` must hold out at least 1 of 200 rows and leave at least 1, got 0"),
        ({"val_split": 1.0}, "`val_split` must hold out at least 1 of 160 rows and leave at least 1, got 1.0"),
        (
            {"test_split": 0.999},
            "`val_split` is 0.1, but the test split leaves no class two rows: one to train on and one for val",
        ),
        ({"test_path": "nowhere.csv"}, "nowhere.csv not found"),
        ({"test_path": "other.csv"}, "other.csv has classes without training rows: maybe; the model knows no, yes"),
        ({"test_path": "unknown.csv"}, "unknown.csv has no rows with a churned"),
        ({"split": "other.csv"}, "other.csv must have the columns row and split"),
        ({"split": "short.csv"}, "short.csv splits 2 rows, but customers.csv has 200"),
        ({"missing": None}, "`missing` must be quoted texts, such as --data.missing '[\"?\"]', got None"),
        ({"split": "all.csv"}, "all.csv has no rows of customers.csv in test"),
    ],
)
def test_a_mistake_ends_in_one_line(table: pd.DataFrame, arguments: dict[str, Any], words: str) -> None:
    table.assign(churned="maybe").to_csv("other.csv", index=False)
    table.assign(churned=None).to_csv("unknown.csv", index=False)
    table.assign(churned=["no", "no", "no", ""] * 50).to_csv("few.csv", index=False)
    pd.DataFrame({"row": range(200), "split": ["train", "val"] * 100}).to_csv("all.csv")
    Path("short.csv").write_text("row,split\n0,train\n1,val\n")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command_and_leaves_nothing(kindling: Command, table: pd.DataFrame) -> None:
    result = kindling(*FIT, "--data.target", "churnt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "did you mean churned?" in result.err
    assert not Path("runs").exists()


def test_path_and_target_must_be_given(kindling: Command) -> None:
    result = kindling("fit", "--config", "configs/table_mlp.yaml")
    message = "data.path, data.target must be given: add --data.path PATH --data.target COLUMN"
    assert (result.code, result.err) == (2, f"kindling: error: {message}\n")


@pytest.mark.slow
def test_rows_that_do_not_fit_the_model_are_named(kindling: Command, trained: Path, table: pd.DataFrame) -> None:
    table.drop(columns=["age", "plan", "name"]).to_csv("lacks.csv", index=False)
    table.assign(visits=["few", "many"] * 100).to_csv("words.csv", index=False)
    table.assign(visits=["few", "many", "", ""] * 50, age=None).to_csv("half.csv", index=False)
    table.assign(member=["yes", *[1] * 199]).to_csv("unknown.csv", index=False)
    for file, words in (
        ("lacks.csv", "lacks.csv lacks columns that the model was trained with: age, plan"),
        ("words.csv", "column visits of words.csv must contain numbers, got few"),
        ("half.csv", "column visits of half.csv must contain numbers, got few"),
        (
            "unknown.csv",
            "column member of unknown.csv: 199 of 200 rows have a value unseen in training, such as 1; the model ",
        ),
        ("nowhere.csv", "nowhere.csv not found"),
    ):
        result = kindling("predict", "--ckpt_path", "best", "--data.predict", file)
        assert result.code == 1
        assert words in result.err.splitlines()[-1]


def test_oddities_of_new_rows_are_reported(kindling: Command, trained: Path, table: pd.DataFrame) -> None:
    odd = table.assign(visits=["few", *[2] * 199], member=["maybe", "No", "no", "yes"] * 50, age=None)
    odd.to_csv("odd.csv", index=False)
    odd[:1].assign(visits=1).to_csv("one.csv", index=False)
    said = {}
    for file in ("odd.csv", "one.csv"):
        result = kindling("predict", "--ckpt_path", "best", "--data.predict", file)
        assert result.code == 0, result.err
        said[file] = [line for line in result.err.splitlines() if line.startswith("column")]
    assert said["odd.csv"] == [
        "column age of odd.csv: all values are missing",
        "column visits of odd.csv: 1 of 200 values can't be read as a number, such as few; treated as missing",
        "column member of odd.csv: 100 of 200 rows have a value unseen in training, such as maybe, No",
    ]
    assert said["one.csv"] == ["column member of one.csv: 1 of 1 row has a value unseen in training, such as maybe"]


@pytest.mark.slow
def test_a_weighted_loss_finds_the_rare_class(kindling: Command) -> None:
    random = np.random.default_rng(1)
    rare = random.random(800) < 0.05
    points = random.normal(0, 1, (800, 2)) + np.where(rare, 1.5, 0.0)[:, None]
    pd.DataFrame({"a": points[:, 0], "b": points[:, 1], "fraud": rare}).to_csv("fraud.csv", index=False)
    options = ["--data.path", "fraud.csv", "--data.target", "fraud", "--trainer.max_epochs", "6"]
    reached = []
    for number, weighted in enumerate(["false", "true"]):
        assert kindling(*FIT, *options, "--model.weighted_loss", weighted).code == 0
        reached.append(json.loads(Path(f"runs/tables/version_{number}/test_metrics.json").read_text()))
    names = ("loss", "accuracy", "balanced_accuracy", "f1", "average_precision", "roc_auc")
    assert reached[0].keys() == {f"test/{name}" for name in names}
    assert reached[1]["test/balanced_accuracy"] > reached[0]["test/balanced_accuracy"] + 0.1


GRID: dict[str, list[Any]] = {
    "mlpclassifier__hidden_layer_sizes": [(64,), (256, 128)],
    "mlpclassifier__alpha": [1e-4, 1e-1],
    "mlpclassifier__learning_rate_init": [1e-3, 1e-2],
}


# Its MLP as it is by default, or the best of a grid. 200 epochs do for it, converged or not.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "seeds", "grid", "margin"),
    [
        # 569 rows of 30 features that a linear model separates: 96.5%, its MLP 97.7%.
        ("breast_cancer", 5, {}, 0.02),
        ("breast_cancer", 5, GRID, 0.02),
        ("digits", 5, GRID, 0.01),
        # A test split has 36 rows: of five, two rows more or less are a point.
        ("wine", 20, GRID, 0.01),
    ],
    ids=["breast_cancer", "breast_cancer-grid", "digits-grid", "wine-grid"],
)
def test_the_recipe_is_about_as_good_as_the_mlp_of_scikit_learn(
    kindling: Command, name: str, seeds: int, grid: dict[str, list[Any]], margin: float
) -> None:
    from sklearn import datasets
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    pd.DataFrame(features).assign(kind=labels).to_csv("data.csv", index=False)
    theirs, ours = [], []
    for seed in range(seeds):
        options = ["--data.path", "data.csv", "--data.target", "kind", "--data.split_seed", seed, "--run_name", seed]
        assert kindling("fit", "--config", "configs/table_mlp.yaml", *options).code == 0
        ours.append(json.loads(Path(f"runs/{seed}/version_0/test_metrics.json").read_text())["test/accuracy"])
        test = (pd.read_csv(f"runs/{seed}/version_0/split.csv")["split"] == "test").to_numpy()
        pipeline = make_pipeline(StandardScaler(), MLPClassifier(random_state=seed))
        tuned = GridSearchCV(pipeline, grid, cv=3).fit(features[~test], labels[~test])
        theirs.append(tuned.score(features[test], labels[test]))
    print(f"{name}: {np.mean(ours):.4f}, scikit-learn {np.mean(theirs):.4f}")
    assert np.mean(ours) >= np.mean(theirs) - margin


def test_each_step_that_takes_long_shows_its_progress(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    @contextmanager
    def progress(what: str) -> Iterator[None]:
        shown.append(what)
        yield

    for module in ("rows", "files", "splits", "learning", "datamodule"):
        monkeypatch.setattr(f"kindling.data.tables.{module}.progress", progress)
    data = read(predict="customers.csv")
    data.setup("predict")
    reading, encoding = "reading customers.csv", "encoding 200 rows of customers.csv"
    splitting, learning = "splitting 200 rows of customers.csv", "learning the 9 columns of customers.csv"
    assert shown == [reading, splitting, learning, encoding, reading, encoding]
