import csv
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Command
from kindling import TableDataModule
from kindling.cli import main
from kindling.runs import read_checkpoint

FIT = (
    "fit --model MLPClassifier --model.hidden [16] --data TableDataModule --data.path customers.csv "
    "--data.target churned --trainer.max_epochs 2 --run_name tables"
).split()


def customers(number: int = 200) -> pd.DataFrame:
    """Rows of all kinds of columns; who churns is old and on the basic plan, more or less."""
    random = np.random.default_rng(0)
    age = random.integers(18, 80, number).astype(float)
    plan = random.choice(["basic", "gold", "team"], number)
    churned = age / 30 + (plan == "basic") + random.normal(0, 0.3, number) > 2.1
    age[::9] = np.nan
    return pd.DataFrame(
        {
            "customer_id": random.permutation(number) * 7 + 5000,
            "name": [f"Customer {row}" for row in range(number)],
            "age": age,
            "spent": random.lognormal(3, 1, number).round(2),
            "plan": pd.Series(plan).mask(random.random(number) < 0.1),
            "visits": random.integers(0, 5, number),
            "member": random.choice(["yes", "no"], number),
            "abroad": random.random(number) < 0.3,
            "country": "UK",
            "churned": np.where(churned, "yes", "no"),
        }
    )


@pytest.fixture
def table(folder: Path) -> pd.DataFrame:
    """The rows of customers.csv."""
    frame = customers()
    frame.to_csv("customers.csv", index=False)
    return frame


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with customers.csv and a model trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        customers().to_csv("customers.csv", index=False)
        assert main(FIT) == 0
    return folder


@pytest.fixture
def trained(trained_folder: Path, folder: Path, table: pd.DataFrame) -> Path:
    """The run folder of that model, in the folder of the test."""
    shutil.copytree(trained_folder / "runs", folder / "runs")
    return Path("runs/tables/version_0")


def read(path: str = "customers.csv", target: str = "churned", **arguments: Any) -> TableDataModule:
    """A data module that has read its training rows."""
    data = TableDataModule(path, target, **arguments)
    data.setup("fit")
    return data


def one_column(values: Sequence[object], **arguments: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """What is learned of one column, where all rows but the last two are for training; and the features of those."""
    rows = len(values)
    frame = pd.DataFrame({"value": values, "other": np.arange(rows) % 3, "class": np.arange(rows) % 2})
    frame.to_csv("one.csv", index=False)
    splits = ["train"] * (rows - 2) + ["val", "test"]
    pd.DataFrame({"row": range(rows), "split": splits}).to_csv("one_split.csv", index=False)
    data = read("one.csv", "class", split="one_split.csv", **arguments)
    learned = {column["name"]: column for column in data.fitted["columns"]}
    features = torch.cat([data.train.inputs, data.val.inputs, data.load("test")[0]])
    return learned.get("value", {}), features[:, :-1]  # without `other`


def predictions(path: Path = Path("runs/tables/version_0/predictions.csv")) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_goes_from_a_file_to_predictions_of_new_rows(
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
    for ours, theirs in zip(lines[::-1], tested, strict=True):
        assert ours.keys() == {"prediction", "probability", "no", "yes"}
        assert ours["prediction"] == theirs["prediction"]
        assert float(ours["yes"]) == pytest.approx(float(theirs["yes"]), abs=1e-5)


def test_features_are_those_computed_by_hand(table: pd.DataFrame) -> None:
    data = read()
    rows = table[data.splits == "train"]
    plans = pd.get_dummies(rows["plan"])[["basic", "gold", "team"]]
    expected = np.column_stack(
        [
            rows["age"].fillna(rows["age"].median()),
            rows["age"].isna(),
            rows["spent"],
            plans,
            rows["plan"].isna(),
            rows["visits"],
            rows["member"].map({"no": -1, "yes": 1}),
            rows["abroad"].map({False: -1, True: 1}),
        ]
    ).astype(np.float32)
    assert data.train.inputs.numpy() == pytest.approx(expected)
    assert data.train.inputs.dtype == torch.float32
    assert data.input_shape == expected.shape[1:]
    assert data.mean == pytest.approx(expected.mean(0), rel=1e-4, abs=1e-6)
    assert data.class_names == ("no", "yes")
    assert data.train.labels.tolist() == (rows["churned"] == "yes").astype(int).tolist()


def test_what_is_learned_comes_from_the_training_rows_alone(table: pd.DataFrame) -> None:
    first = read()
    held_out = first.splits != "train"
    table.loc[held_out, ["age", "spent"]] = 1e6
    table.loc[held_out, "plan"] = "new"
    table.to_csv("customers.csv", index=False)
    second = read()
    assert second.splits.tolist() == first.splits.tolist()
    assert second.fitted == first.fitted
    assert (second.mean, second.std) == (first.mean, first.std)


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


def test_numbers_with_dirt_are_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    values: list[object] = [float(value % 40) for value in range(100)]
    values[3:9] = ["?", "n/a", "-", "", " NULL ", "inf"]
    learned, features = one_column([*values, 500.0, -3])
    known = [value for value in values if isinstance(value, float)]
    assert learned == {"name": "value", "kind": "number", "median": np.median(known), "missing": True}
    assert "no numbers" not in capfd.readouterr().out  # these are the usual ways to say that there is none
    assert features[:, 1].nonzero().squeeze(1).tolist() == [3, 4, 5, 6, 7, 8]
    assert features[3:9, 0].tolist() == [np.median(known)] * 6
    assert features[-2:].tolist() == [[500, 0], [-3, 0]]

    values[20] = "about 7"
    learned, features = one_column([*values, "lots", 1])
    assert (learned["kind"], features[20, 1].item()) == ("number", 1)
    assert "column value of one.csv: 2 of 101 are no numbers, such as about 7: they c" in capfd.readouterr().out


def test_categories_unseen_in_training_are_zero() -> None:
    learned, features = one_column(["b", "a", "c"] * 10 + ["", " a", "d"])
    assert learned == {"name": "value", "kind": "category", "values": ["a", "b", "c"], "missing": True}
    assert features[-5:].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("two", [("no", "yes"), ("false", "true"), ("False", "True"), ("FALSE", "TRUE"), ("f", "m")])
def test_two_categories_are_one_feature(two: tuple[str, str]) -> None:
    learned, features = one_column([*two, two[1]] * 6 + [two[0], "neither"])
    assert len(learned["values"]) == 2
    assert features.tolist() == [[-1], [1], [1]] * 6 + [[-1], [0]]


def test_rare_categories_are_merged() -> None:
    often = [f"city {number:02}" for number in range(50)] * 4
    rare = [f"village {number}" for number in range(20)] * 2
    learned, features = one_column([*rare, *often, "city 03", "village 3"])
    assert learned["values"] == sorted(set(often))
    assert features.shape == (242, 50)
    assert (features[:40] == 0).all()
    assert features[-2].nonzero().tolist() == [[3]]
    assert (features[-1] == 0).all()


def test_columns_that_say_nothing_are_left_out(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    table["row"] = np.arange(200)[::-1] + 1  # no name of an id, but consecutive numbers
    table["day"] = pd.date_range("2024-01-01", periods=200).strftime("%Y-%m-%d")
    table["nothing"] = None
    table.to_csv("customers.csv", index=False)
    data = read(drop=("spent", "visits"))
    kept = [column["name"] for column in data.fitted["columns"]]
    assert kept == ["age", "plan", "member", "abroad"]
    assert capfd.readouterr().out.splitlines() == [
        "left out: customer_id, row (an id: a number for each row)",
        "left out: name, day (text that differs from row to row: an id, a name, a date)",
        "left out: country, nothing (always the same)",
    ]


def test_a_column_that_gives_the_class_away_is_named(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    table.assign(left=(table["churned"] == "yes") + 3).to_csv("customers.csv", index=False)
    assert "left" in [column["name"] for column in read().fitted["columns"]]
    assert capfd.readouterr().out.splitlines()[-1].startswith("left says the class by itself")
    read(drop=("left",))
    assert "by itself" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("separator", "encoding", "decimal"),
    [(",", "utf-8-sig", "."), (";", "utf-8", "."), (";", "latin-1", ","), ("\t", "utf-16", "."), ("|", "latin-1", ".")],
)
def test_separators_and_encodings_are_recognised(
    table: pd.DataFrame, separator: str, encoding: str, decimal: str
) -> None:
    table["plan"] = table["plan"].replace("gold", "größte, teuerste")
    table.to_csv("customers.csv", index=False)
    plain = read()
    assert "größte, teuerste" in plain.fitted["columns"][2]["values"]
    table.to_csv("other.csv", index=False, sep=separator, encoding=encoding, decimal=decimal)
    other = read("other.csv")
    assert other.fitted == plain.fitted
    assert torch.equal(other.train.inputs, plain.train.inputs)


def test_spaces_after_separators_and_columns_without_a_name_are_taken() -> None:
    lines = [f"{row % 7}, {'ab'[row % 2]}, {'?' if row == 2 else 'xyz'[row % 3]},no\n" for row in range(30)]
    Path("spaces.csv").write_text("size, class, letter,\n" + "".join(lines) + "\n\n")
    data = read("spaces.csv", "class")
    assert data.class_names == ("a", "b")
    assert [column["name"] for column in data.fitted["columns"]] == ["size", "letter"]
    assert list(data.fitted["left_out"]) == ["column 4"]


def test_classes_are_sorted_and_rows_without_one_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    classes = ["10", "9", "", "2", "?"] * 12
    Path("grades.csv").write_text("size,grade\n" + "".join(f"{row % 11},{name}\n" for row, name in enumerate(classes)))
    data = read("grades.csv", "grade")
    assert data.class_names == ("2", "9", "10")
    assert (data.splits == "left out").sum() == 24
    assert "left out: 24 rows of grades.csv without grade" in capfd.readouterr().out
    data.setup("test")
    assert [classes[row] for row in data.tested_rows()] == [  # type: ignore[call-overload]
        data.class_names[label] for label in data.test.labels
    ]


def test_a_class_may_be_called_none(table: pd.DataFrame) -> None:
    table.replace({"churned": {"no": "none", "yes": "-"}}).to_csv("customers.csv", index=False)
    assert read().class_names == ("-", "none")


def test_a_test_file_of_its_own(kindling: Command, table: pd.DataFrame) -> None:
    extra = customers(230)[200:]
    extra.loc[203, "churned"] = None
    extra.to_csv("extra.csv", index=False)
    result = kindling(*FIT, "--data.test_path", "extra.csv")
    assert result.code == 0, result.err
    assert set(pd.read_csv("runs/tables/version_0/split.csv")["split"]) == {"train", "val"}
    data = read(test_path="extra.csv")
    data.setup("test")
    assert data.tested_rows() == [0, 1, 2, *range(4, 30)]
    facts = data.describe(3)
    assert facts == extra.iloc[4].replace({np.nan: None}).to_dict()
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert [int(line["row"]) for line in predictions()] == data.tested_rows()


def test_a_given_split_decides(kindling: Command, table: pd.DataFrame) -> None:
    names = ["train", "val", "test", "train"] * 50
    split = pd.DataFrame({"row": range(200), "split": names})[::-1]
    split.to_csv("mine.csv", index=False)
    result = kindling(*FIT, "--data.split", "mine.csv")
    assert result.code == 0, result.err
    assert pd.read_csv("runs/tables/version_0/split.csv")["split"].tolist() == names
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert [int(line["row"]) for line in predictions()] == list(range(2, 200, 4))


def test_what_was_split_stays_split(kindling: Command, trained: Path) -> None:
    before = json.loads((trained / "test_metrics.json").read_text())
    # Another seed would split anew; the run's own split.csv goes before it.
    assert kindling("test", "--ckpt_path", "best", "--data.split_seed", "7").code == 0
    assert json.loads((trained / "test_metrics.json").read_text()) == before
    customers(220).to_csv("customers.csv", index=False)
    result = kindling("test", "--ckpt_path", "best")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "splits 200 rows, customers.csv has 220" in result.err
    assert kindling("test", "--ckpt_path", "best", "--data.test_path", "customers.csv").code == 0


def test_training_does_not_go_on_with_another_table(kindling: Command, trained: Path, table: pd.DataFrame) -> None:
    more = ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    table.assign(age=table["age"] + 1).to_csv("customers.csv", index=False)
    result = kindling(*more)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "customers.csv is not what the checkpoint was trained on" in result.err
    table.to_csv("customers.csv", index=False)
    assert kindling(*more).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "nowhere.csv"}, "there is no file nowhere.csv"),
        (
            {"target": "churnt"},
            "customers.csv has no column churnt as the target: did you mean churned? It has customer_",
        ),
        (
            {"target": "zzz"},
            "no column zzz as the target. It has customer_id, name, age, spent, plan, visits, member, ab",
        ),
        ({"drop": ["vists"]}, "drop: customers.csv has no column vists: did you mean visits?"),
        ({"drop": ["age", "spent", "plan", "visits", "member", "abroad"]}, "there is no column to learn from"),
        ({"target": "spent"}, "column spent of customers.csv has 19"),
        ({"target": "name"}, "column name of customers.csv has 200 different values: this is no classification"),
        ({"target": "country"}, "column country of customers.csv has one class alone, UK"),
        ({"test_split": 0}, "test_split=0 holds out 0 of the 200"),
        ({"val_split": 1.0}, "val_split=1.0 holds out 160 of the 160"),
        ({"test_path": "nowhere.csv"}, "there is no file nowhere.csv"),
        ({"test_path": "other.csv"}, "other.csv has classes that no training row has: maybe; training has no, yes"),
        ({"split": "other.csv"}, "other.csv must have the columns row and split"),
        ({"split": "short.csv"}, "short.csv splits 2 rows, customers.csv has 200"),
        ({"split": "all.csv"}, "all.csv puts no row of customers.csv into test"),
    ],
)
def test_a_mistake_is_said_in_one_line(table: pd.DataFrame, arguments: dict[str, Any], words: str) -> None:
    table.assign(churned="maybe").to_csv("other.csv", index=False)
    pd.DataFrame({"row": range(200), "split": ["train", "val"] * 100}).to_csv("all.csv")
    Path("short.csv").write_text("row,split\n0,train\n1,val\n")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "t.csv is empty"),
        (b"a,b,class\n", "t.csv has no rows"),
        (b"a,b,a,class\n1,2,3,x\n", "t.csv has more than one column a"),
        (b"a,class\n1,x\n1,2,y\n", "t.csv is no regular CSV"),
        (b"a,class\n1,x,0\n1,y,0\n", "the rows of t.csv have more fields than its first line"),
        (b"PK\0\3", "t.csv is no text"),
        (b"a,class\n1,x\n2,y\n3,y\n4,y\n", "t.csv has classes with fewer than 3 rows: x (1)"),
        (b"a,class\n1,\n2,?\n", "has no values"),
    ],
)
def test_a_bad_file_is_said_in_one_line(content: bytes, words: str) -> None:
    Path("t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read("t.csv", "class")
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command_and_leaves_nothing(kindling: Command, table: pd.DataFrame) -> None:
    result = kindling(*FIT, "--data.target", "churnt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "did you mean churned?" in result.err
    assert not Path("runs").exists()


def test_path_and_target_must_be_given(kindling: Command) -> None:
    result = kindling("fit", "--config", "configs/table_mlp.yaml")
    assert (result.code, result.err) == (2, "kindling: error: data.path, data.target must be given\n")


def test_rows_that_do_not_fit_the_model_are_named(kindling: Command, trained: Path, table: pd.DataFrame) -> None:
    table.drop(columns=["age", "plan", "name"]).to_csv("lacks.csv", index=False)
    table.assign(visits=["few", "many"] * 100).to_csv("words.csv", index=False)
    for file, words in (
        ("lacks.csv", "lacks.csv lacks columns that the model was trained with: age, plan"),
        ("words.csv", "column visits of words.csv must hold numbers, not few"),
        ("nowhere.csv", "there is no file nowhere.csv"),
    ):
        result = kindling("predict", "--ckpt_path", "best", "--data.predict", file)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert words in result.err
    table.assign(member=1).to_csv("unknown.csv", index=False)
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "unknown.csv")
    assert "column member of unknown.csv: no value is known from training, neither 1" in result.out


def test_parquet_is_read_like_a_csv(table: pd.DataFrame) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table.assign(lists=[[row % 5] for row in range(200)]).to_parquet("customers.parquet")
    table.convert_dtypes().astype({"plan": "category"}).to_parquet("nullable.parquet")
    plain = read()
    for file in ("customers.parquet", "nullable.parquet"):
        other = read(file, drop=("lists",) if file == "customers.parquet" else ())
        assert other.fitted == plain.fitted
        assert torch.equal(other.train.inputs, plain.train.inputs)
    Path("bad.parquet").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"bad\.parquet is damaged or no Parquet file"):
        read("bad.parquet")


def test_parquet_says_what_it_needs(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    Path("t.parquet").write_bytes(b"PAR1")
    result = kindling(*FIT, "--data.path", "t.parquet")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "pip install 'kindling[parquet]'" in result.err


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
    assert reached[0].keys() == {"test/loss", "test/accuracy", "test/balanced_accuracy", "test/f1"}
    assert reached[1]["test/balanced_accuracy"] > reached[0]["test/balanced_accuracy"] + 0.1


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_the_recipe_comes_near_a_tuned_mlp_of_scikit_learn(kindling: Command, name: str) -> None:
    from sklearn import datasets
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    pd.DataFrame(features).assign(kind=labels).to_csv("data.csv", index=False)
    theirs, ours = [], []
    for seed in range(2):
        options = ["--data.path", "data.csv", "--data.target", "kind", "--data.split_seed", seed, "--run_name", seed]
        assert kindling("fit", "--config", "configs/table_mlp.yaml", *options).code == 0
        ours.append(json.loads(Path(f"runs/{seed}/version_0/test_metrics.json").read_text())["test/accuracy"])
        test = (pd.read_csv(f"runs/{seed}/version_0/split.csv")["split"] == "test").to_numpy()
        tuned = make_pipeline(StandardScaler(), MLPClassifier((64,), alpha=0.01, max_iter=300, random_state=0))
        theirs.append(tuned.fit(features[~test], labels[~test]).score(features[test], labels[test]))
    assert np.mean(ours) >= np.mean(theirs) - 0.02
