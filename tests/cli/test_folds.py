"""Cross-validation: the folds, the report over all of them, and the ensemble of their models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from report_reader import read as read_report
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, mean_absolute_error, r2_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from conftest import Command
from kindling import TableDataModule, load
from kindling.cli.fold_results import combine_folds, predict_command

REPEAT = Path("runs/folds/repeat_0")
SMALL = (
    "--model.hidden [8] --data TableDataModule --data.path shops.csv --data.target bought --run_name folds "
    "--trainer.max_epochs 12"
).split()


def write_shops(rows: int = 240) -> pd.DataFrame:
    """Write shops.csv, in which each fold learns another encoding: rare towns, missing ages, numbers with a tail."""
    random = np.random.default_rng(0)
    age = random.integers(18, 80, rows).astype(float)
    price = random.lognormal(3, 1, rows).round(2)
    frame = pd.DataFrame(
        {
            "customer": [f"C-{number:04d}" for number in random.permutation(rows)],
            "age": np.where(random.random(rows) < 0.1, np.nan, age),
            "price": price,
            "town": random.choice([f"town {number}" for number in range(30)], rows, p=np.arange(30, 0, -1) / 465),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 1500, rows), unit="D"),
        }
    )
    frame["bought"] = np.where(age / 30 + np.log(price) / 2 + random.normal(size=rows) / 2 > 3.1, "yes", "no")
    frame["spent"] = (age + 10 * np.log(price) + random.normal(size=rows)).round(2)
    frame.to_csv("shops.csv", index=False)
    return frame


@pytest.fixture
def shops() -> pd.DataFrame:
    """The rows of shops.csv."""
    return write_shops()


def test_folds_of_classes_have_one_report_and_an_ensemble(kindling: Command, shops: pd.DataFrame) -> None:
    command = ("repeat", "--folds", 3, "--model", "MLPClassifier", *SMALL, "--data.drop", "[spent]")
    result = kindling(*command)
    assert result.code == 0, result.err
    assert "predict --ckpt_path runs/folds/repeat_0 --data.predict FILE" in " ".join(result.out.split())
    found = pd.read_csv(REPEAT / "predictions.csv")
    assert found["row"].tolist() == list(range(240))
    assert found["customer"].tolist() == shops["customer"].tolist()
    assert found["label"].tolist() == shops["bought"].tolist()

    page = read_report(REPEAT)
    accuracy = accuracy_score(found["label"], found["prediction"])
    low, high = stats.binomtest(round(accuracy * 240), 240).proportion_ci(0.95, "wilson")
    assert f"accuracy{accuracy:.2%}{low:.2%} to {high:.2%}" in page.text
    assert f"macro F1{f1_score(found['label'], found['prediction'], average='macro'):.2%}" in page.text
    labels = (found["label"] == "yes").astype(int)
    paths = [REPEAT / f"fold_{fold}/version_0/checkpoints/best.ckpt" for fold in (1, 2, 3)]
    temperatures = np.array([torch.load(path, weights_only=True)["softmax_temperature"] for path in paths])
    of_fold = temperatures[found["fold"].str[-1].astype(int) - 1, None]
    uncalibrated = softmax(np.log(found[["no", "yes"]].to_numpy()) * of_fold, axis=1)
    log_loss = -np.log(uncalibrated[range(240), labels]).mean()
    assert f"loss{log_loss:.4f}" in page.text
    counts = [[int(cell or 0) for cell in row[1:]] for row in page.tables["Confusion matrix"][1:]]
    assert counts == confusion_matrix(found["label"], found["prediction"]).tolist()
    wrong = found[found["label"] != found["prediction"]]
    assert {int(row[0]) for row in page.tables["Worst predictions"][1:]} <= {*wrong["row"]}
    important = [row[0] for row in page.tables["Column importance"][1:]]
    assert "price" in important
    assert "customer" not in important

    folds = [load(REPEAT / f"fold_{fold}") for fold in (1, 2, 3)]
    assert len({str(fold.card.columns) for fold in folds}) == 3  # each has learned from other rows
    ensemble = load(REPEAT)
    calibrated = [fold.predict(shops).probabilities for fold in folds]
    raw = [softmax(np.log(part) * by, axis=1) for part, by in zip(calibrated, temperatures, strict=True)]
    expected = softmax(np.log(np.mean(raw, axis=0)) / stats.gmean(temperatures), axis=1)
    np.testing.assert_allclose(ensemble.predict(shops).probabilities, expected, atol=1e-6)
    assert ensemble.takes.count("town") == 1

    before = (REPEAT / "report.html").stat().st_mtime_ns
    assert kindling(*command).code == 0
    assert (REPEAT / "report.html").stat().st_mtime_ns == before
    refused = kindling("test", "--ckpt_path", REPEAT)
    assert refused.code == 1
    assert "has no test rows: the members of the ensemble were trained on different ones" in refused.err
    assert "--data.test_path FILE to test on unseen rows, or --data.predict FILE to predict" in refused.err
    shops.assign(customer=shops["customer"].str.replace("C", "N")).to_csv("new.csv", index=False)
    assert kindling("test", "--ckpt_path", REPEAT, "--data.test_path", "new.csv").code == 0
    tested = pd.read_csv(REPEAT / "ensemble/version_0/test_new/predictions.csv")
    np.testing.assert_allclose(tested[["no", "yes"]], expected, atol=1e-5)
    assert tested["customer"].str.startswith("N").all()


@pytest.mark.slow
def test_folds_of_numbers_have_one_report_and_an_ensemble_that_exports(kindling: Command, shops: pd.DataFrame) -> None:
    options = [option.replace("bought", "spent") for option in SMALL]
    result = kindling("repeat", "--folds", 3, "--model", "MLPRegressor", *options, "--data.drop", "[bought]")
    assert result.code == 0, result.err
    found = pd.read_csv(REPEAT / "predictions.csv")
    page = read_report(REPEAT)
    assert f"R²{r2_score(found['target'], found['prediction']):.4f}" in page.text
    assert f"MAE{mean_absolute_error(found['target'], found['prediction']):.2f}" in page.text
    worst = (found["prediction"] - found["target"]).abs().nlargest(24).index
    assert [int(row[0]) for row in page.tables["Worst predictions"][1:]] == worst.tolist()
    expected = np.mean([load(REPEAT / f"fold_{fold}").predict(shops).values for fold in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(load(REPEAT).predict(shops).values, expected, rtol=1e-5)
    exported = kindling("export", "--ckpt_path", REPEAT, "--out", "model.onnx")
    assert exported.code == 0, exported.err
    assert "compared on 240 training rows" in " ".join(exported.out.split())
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    names = {each.name for each in session.get_inputs()}
    assert names == {"age", "price", "town", "since"}
    inputs = {name: shops[name].to_numpy() for name in ("age", "price", "town")}
    since = shops["since"].astype(str).to_numpy()
    [values] = session.run(["predictions"], {**inputs, "since": since})
    np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.slow
def test_each_fold_has_its_threshold_and_the_ensemble_the_best_one(kindling: Command, shops: pd.DataFrame) -> None:
    options = (*SMALL, "--data.drop", "[spent]", "--model.threshold", "accuracy")
    assert kindling("repeat", "--folds", 2, "--model", "MLPClassifier", *options).code == 0
    found = pd.read_csv(REPEAT / "predictions.csv")
    page = read_report(REPEAT)
    counts = [[int(cell or 0) for cell in row[1:]] for row in page.tables["Confusion matrix"][1:]]
    assert counts == confusion_matrix(found["label"], found["prediction"]).tolist()
    model = yaml.safe_load((REPEAT / "ensemble.yaml").read_text())["model"]["init_args"]

    def accuracy(threshold: float) -> float:
        return float(((found["yes"] >= threshold) == (found["label"] == "yes")).mean())

    assert model["positive_class"] == "yes"
    assert accuracy(model["threshold"]) == max(map(accuracy, found["yes"]))
    assert load(REPEAT).card.threshold == pytest.approx(model["threshold"])


@pytest.mark.slow
def test_each_fold_has_its_temperature_and_the_ensemble_their_mean(kindling: Command) -> None:
    shops, smooth = write_shops(1000), ("--model.optimizer.lr", "0.01", "--model.label_smoothing", "0.4")
    options = (*SMALL, "--data.drop", "[spent]", *smooth)
    assert kindling("repeat", "--folds", 2, "--model", "MLPClassifier", *options).code == 0
    paths = [REPEAT / f"fold_{fold}/version_0/checkpoints/best.ckpt" for fold in (1, 2)]
    temperatures = np.array([torch.load(path, weights_only=True)["softmax_temperature"] for path in paths])
    assert temperatures.max() < 0.8
    assert temperatures[0] != temperatures[1]
    found, page = pd.read_csv(REPEAT / "predictions.csv"), read_report(REPEAT)
    labels = (found["label"] == "yes").to_numpy().astype(int)
    logits = np.log(found[["no", "yes"]].to_numpy()) * temperatures[found["fold"].str[-1].astype(int) - 1, None]
    uncalibrated = softmax(logits, axis=1)
    for part in (uncalibrated, softmax(np.log(found[["no", "yes"]].to_numpy()), axis=1)):
        assert f"log loss: {-np.log(part[range(1000), labels]).mean():.4f}" in page.text
    smoothed = 0.2 + 0.6 * np.stack([1 - labels, labels], axis=1)
    assert f"loss{-(smoothed * np.log(uncalibrated)).sum(axis=1).mean():.4f}" in page.text
    names = ", ".join(f"{temperature:.3g}" for temperature in temperatures)
    assert f"the softmax temperature, {names}." in page.text
    stored = torch.load(REPEAT / "ensemble/version_0/checkpoints/best.ckpt", weights_only=True)
    assert stored["softmax_temperature"] == pytest.approx(stats.gmean(temperatures))
    assert len(load(REPEAT).predict(shops).labels) == 1000


@pytest.mark.slow
def test_members_with_different_classes_or_targets_are_named(kindling: Command, shops: pd.DataFrame) -> None:
    shops.assign(bought=np.where(shops["age"] > 60, "maybe", shops["bought"])).to_csv("others.csv", index=False)
    for path in ("shops.csv", "others.csv"):
        options = [option.replace("shops.csv", path) for option in SMALL]
        assert kindling("fit", "--model", "MLPClassifier", *options).code == 0
    data = ("--data", "TableDataModule", "--data.path", "shops.csv", "--data.target", "bought")
    members = "[runs/folds/version_0, runs/folds/version_1]"
    result = kindling("fit", "--model", "EnsembleClassifier", "--model.checkpoints", members, *data)
    assert result.code == 1
    assert "the members of the ensemble predict different classes: no, yes and maybe, no, yes" in result.err
    assert len([*Path("runs").rglob("run.json")]) == 2


def modules(number: int, **options: Any) -> list[TableDataModule]:
    return [
        TableDataModule("shops.csv", "bought", drop=("spent",), fold=f"{fold}/{number}", **options)
        for fold in range(1, number + 1)
    ]


def test_folds_are_those_of_scikit_learn_with_its_sizes_and_class_shares(shops: pd.DataFrame) -> None:
    labels = shops["bought"].to_numpy()
    groups = (np.arange(240) // 3) % 50
    shops.assign(shop=[f"shop {group}" for group in groups]).to_csv("shops.csv", index=False)
    for options, splitter, seed in (
        ({}, StratifiedKFold, 42),
        ({"split_seed": 7}, StratifiedKFold, 7),
        ({"groups": "shop"}, StratifiedGroupKFold, 42),
        ({"groups": "shop", "split_seed": 7}, StratifiedGroupKFold, 7),
    ):
        tested = [data.splits == "test" for data in modules(4, **options)]
        expected = [*splitter(4, shuffle=True, random_state=seed).split(labels, labels, groups)]
        assert [np.flatnonzero(rows).tolist() for rows in tested] == [test.tolist() for _, test in expected]
        sizes = [rows.sum() for rows in tested]
        shares = [(labels[rows] == "yes").mean() for rows in tested]
        assert max(sizes) - min(sizes) <= (6 if "groups" in options else 1)
        assert max(shares) - min(shares) < (0.1 if "groups" in options else 0.02)
        if "groups" in options:
            assert sum(len({*groups[rows]}) for rows in tested) == 50


def learned(data: TableDataModule) -> tuple[Any, np.ndarray, tuple[float, ...]]:
    """What a fold learns: the encodings, the encoded training and validation rows, and the normalization."""
    data.setup("fit")
    rows = np.concatenate([data.train.inputs.numpy(), data.val.inputs.numpy()])
    return data.fitted["columns"], rows, (*data.mean, *data.std)


def write_owners() -> pd.DataFrame:
    """Write shops.csv, where only the owner of a row, of 150, tells the class."""
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(150), 4)
    frame = pd.DataFrame({"shop": owner, "owner": [f"owner {number}" for number in owner]})
    frame["price"] = random.lognormal(3, 1, 600).round(2)
    frame["bought"] = np.repeat(random.choice(["yes", "no"], 150), 4)
    frame["spent"] = 0
    frame.to_csv("shops.csv", index=False)
    return frame


def check_that_test_rows_teach_nothing() -> None:
    """Check that a fold learns the same whatever its test rows are: other numbers, categories and classes."""
    for fold in (0, 1):
        changed = write_owners()
        data = modules(3)[fold]
        before, tested = learned(data), data.splits == "test"
        assert "encodings" in {name for column in before[0] for name in column}
        changed.loc[tested, "price"] *= 1000
        changed.loc[tested, "owner"] = changed.loc[tested, "owner"].sample(frac=1, random_state=0).to_numpy()
        changed.loc[tested, "bought"] = changed.loc[tested, "bought"].map({"yes": "no", "no": "yes"})
        changed.to_csv("shops.csv", index=False)
        pd.DataFrame({"row": range(600), "split": data.splits}).to_csv("split.csv", index=False)
        after = learned(TableDataModule("shops.csv", "bought", drop=("spent",), split="split.csv"))
        assert before[0] == after[0], "the encoding depends on test rows"
        assert np.array_equal(before[1], after[1]), "the training rows depend on test rows"
        assert before[2] == after[2], "the normalization depends on test rows"


def test_a_fold_learns_nothing_from_its_test_rows() -> None:
    check_that_test_rows_teach_nothing()


@pytest.mark.parametrize("leak", ["statistics", "targets"])
def test_a_planted_leak_is_noticed(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(leak, monkeypatch)
    with pytest.raises(AssertionError, match="depend"):
        check_that_test_rows_teach_nothing()


def plant(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let folds learn from all rows: the scale of columns, or only the target encoding of categories."""
    from kindling.data.tables import columns, datamodule, learning

    original = columns.learn_columns

    def learn(cells: Any, targets: Any, rows: int, *args: Any) -> Any:
        table, target = opened[-1]
        everything = np.full(rows, True)
        all_cells = {name: table.cells(name) for name in cells}
        all_targets = target.encode(everything)
        if leak == "statistics":
            return original(all_cells, all_targets, rows, *args)
        found, left_out = original(cells, targets, rows, *args)
        leaked = original(all_cells, all_targets, rows, *args)[0]
        by_name = {column["name"]: column for column in leaked}
        return [by_name[column["name"]] if "encodings" in column else column for column in found], left_out

    opened: list[Any] = []
    learn_table = learning.learn_table

    def record(target: Any, *args: Any) -> Any:
        opened.append((target.table, target))
        return learn_table(target, *args)

    monkeypatch.setattr(learning, "learn_columns", learn)
    monkeypatch.setattr(datamodule, "learn_table", record)


def held_out_accuracy(kindling: Command) -> float:
    """Return the out-of-fold accuracy with all rows of an owner in one fold, so that the classes are noise."""
    write_owners()
    correct: list[bool] = []
    for fold in (1, 2, 3):
        options = (*SMALL, "--data.groups", "shop", "--data.fold", f"{fold}/3", "--data.drop", "[spent]")
        result = kindling("fit", "--model", "MLPClassifier", *options, "--trainer.max_epochs", 15)
        assert result.code == 0, result.err
        found = pd.read_csv(f"runs/folds/version_{fold - 1}/predictions.csv")
        correct += (found["label"] == found["prediction"]).tolist()
    assert len(correct) == 600
    return float(np.mean(correct))


def test_noise_with_many_categories_is_predicted_by_chance_alone(kindling: Command) -> None:
    assert 0.38 < held_out_accuracy(kindling) < 0.62  # of 150 owners: three standard deviations are 0.12


@pytest.mark.slow
def test_a_target_encoding_of_all_rows_would_predict_noise(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("targets", monkeypatch)
    assert held_out_accuracy(kindling) > 0.9


def test_a_mistake_is_named_once_for_all_folds(kindling: Command, shops: pd.DataFrame) -> None:
    command = ("repeat", "--folds", 3, "--model", "MLPClassifier", *SMALL, "--groups", "twn", "--format", "json")
    result = kindling(*command)
    message = "`groups`: shops.csv has no column twn: did you mean town?"
    assert (result.code, result.err) == (2, f"kindling: error: {message}\n")
    assert not [*Path("runs").rglob("*")]


@pytest.mark.slow
def test_runs_on_images_are_combined_too(kindling: Command) -> None:
    random = np.random.default_rng(0)
    files = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(12)]
    for file in files:
        Path("photos", file).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (8, 8, 3), dtype=np.uint8) + 100 * ("cat" in file)
        Image.fromarray(pixels.astype(np.uint8)).save(Path("photos", file))
    members = {f"fold_{fold}": [f"--data.split=split_{fold}.csv"] for fold in (1, 2, 3)}
    for fold, name in enumerate(members):
        splits = [
            "test" if place % 3 == fold else "val" if place % 6 == (fold + 1) % 6 else "train" for place in range(24)
        ]
        table = pd.DataFrame({"file": files, "class": [file[:3] for file in files], "split": splits})
        table.to_csv(f"split_{fold + 1}.csv", index=False)
        REPEAT.mkdir(parents=True, exist_ok=True)
        (REPEAT / "repeat.json").write_text(json.dumps({"command": [], "members": members, "digest": ""}))
        options = (
            "--data",
            "ImageFolderDataModule",
            "--data.data_dir",
            "photos",
            "--trainer.max_epochs",
            6,
            *members[name],
        )
        fit = (
            "fit",
            "--model",
            "CNNClassifier",
            "--model.channels",
            "[8]",
            *options,
            *("--model.softmax_temperature", "1"),
            "--run_name",
            f"folds/repeat_0/{name}",
        )
        assert kindling(*fit).code == 0
    assert combine_folds([str(REPEAT), "kindling repeat"]) == 0
    page = read_report(REPEAT)
    tested = pd.concat([pd.read_csv(REPEAT / name / "version_0/predictions.csv") for name in members])
    counts = [[int(cell or 0) for cell in row[1:]] for row in page.tables["Confusion matrix"][1:]]
    assert counts == confusion_matrix(tested["label"], tested["prediction"]).tolist()
    assert len(page.pictures) == (tested["label"] != tested["prediction"]).sum()
    expected = np.mean([load(REPEAT / name).predict("photos/cat").probabilities for name in members], axis=0)
    np.testing.assert_allclose(load(REPEAT).predict("photos/cat").probabilities, expected, atol=1e-6)
    for command in ("test", "predict"):
        refused = kindling(command, "--ckpt_path", REPEAT)
        assert refused.code == 1
        assert "has no test images: the members of the ensemble were trained on all; add --data." in refused.err
        assert "to test on unseen images, or --data.predict FOLDER to predict" in refused.err
    assert predict_command(REPEAT).endswith("predict --ckpt_path runs/folds/repeat_0 --data.predict FOLDER")
    assert kindling("predict", "--ckpt_path", REPEAT, "--data.predict", "photos/cat").code == 0
