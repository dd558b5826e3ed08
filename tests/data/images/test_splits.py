"""Splits of images by group, by time and into folds."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from conftest import Command
from kindling import ImageFolderDataModule

FIT = (
    "fit --model MLPClassifier --model.hidden [8] --data ImageFolderDataModule --data.data_dir photos "
    "--trainer.max_epochs 1 --run_name photos"
).split()
RUN = Path("runs/photos/version_0")


def photo(file: str, seed: int) -> None:
    path = Path("photos", file)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def scans(folder: Path) -> pd.DataFrame:
    """Write 90 scans of 30 patients, with a file of their labels; each patient is ill or not, and photos follow."""
    random = np.random.default_rng(0)
    patients = random.permutation(np.repeat(np.arange(30), 3))
    days = pd.Timestamp("2023-11-20") + pd.to_timedelta(random.integers(0, 60, 90), "D")
    frame = pd.DataFrame(
        {
            "scan": [f"{row:02}.png" for row in range(90)],
            "patient": [f"P{patient:02}" for patient in patients],
            "taken": days.strftime("%d.%m.%Y"),
            "state": np.where(patients % 3 == 0, "ill", "well"),
        }
    )
    for row, file in enumerate(frame["scan"]):
        photo(file, row)
    frame.to_csv("scans.csv", index=False)
    return frame


def class_folders(layout: Callable[[str, int, int], str]) -> None:
    """Write 5 images of each of 12 patients, 4 of them in both classes, as `layout(class, patient, number)`."""
    for patient in range(12):
        for number in range(5):
            label = "ill" if patient < 4 and number < 2 else "well" if patient % 2 else "ill"
            photo(layout(label, patient, number), 10 * patient + number)


def read(**options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule("photos", **options)
    data.setup("fit")
    return data


def split_file(run: Path = RUN) -> pd.DataFrame:
    return pd.read_csv(run / "split.csv", dtype=str)


def test_the_images_of_a_group_share_a_split_from_fit_to_test(kindling: Command, scans: pd.DataFrame) -> None:
    labels = ["--data.labels", "scans.csv", "--data.groups", "patient", "--data.time", "taken"]
    result = kindling(*FIT, *labels)
    assert "--data.groups patient and --data.time taken can't both choose the splits: leave one out, or" in result.err
    photo("00.png", 5)  # a copy of the scan of another patient: their scans stay together
    result = kindling(*FIT, *labels[:4], "--data.target", "state")
    assert result.code == 0, result.err
    found = split_file().merge(scans, left_on="file", right_on="scan")
    by_patient = found.groupby("patient")["split"].unique()
    assert by_patient.map(len).max() == 1
    assert by_patient[found["patient"][0]][0] == by_patient[found["patient"][5]][0]
    counts = Counter(found["split"])
    assert abs(counts["test"] - 18) <= 3
    assert abs(counts["val"] - 7) <= 3
    assert found[found["split"] == "test"]["state"].nunique() == 2
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert {*pd.read_csv(RUN / "predictions.csv")["file"]} == {*found["file"][found["split"] == "test"]}
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2).code == 0


def test_the_newest_images_are_tested(scans: pd.DataFrame) -> None:
    data = read(labels="scans.csv", target="state", time="taken", groups=None)
    days = pd.to_datetime(scans["taken"], format="%d.%m.%Y").set_axis(scans["scan"])
    taken = {
        name: days[[sample.file for sample in data._samples if sample.split == name]]
        for name in ("train", "val", "test")
    }
    assert taken["train"].max() < taken["val"].min()
    assert taken["val"].max() < taken["test"].min()
    newest = days.nlargest(20).index
    scans.assign(state=scans["state"].where(~scans["scan"].isin(newest), "new")).to_csv("late.csv", index=False)
    with pytest.raises(ValueError, match=r"^column taken of late.csv: \S+ \(\d\d.png\) is the first of class new"):
        read(labels="late.csv", target="state", time="taken")


def test_numbers_and_several_classes_are_split_by_group(scans: pd.DataFrame) -> None:
    random = np.random.default_rng(1)
    scans = scans.assign(age=random.normal(50, 9, 90).round(1), tags=random.choice(["a", "b", "a|b", "c|a"], 90))
    scans.to_csv("scans.csv", index=False)
    patients = dict(zip(scans["scan"], scans["patient"], strict=True))
    for target in ("age", "tags"):
        samples = read(labels="scans.csv", target=target, groups="patient")._samples
        assert {*Counter(sample.split for sample in samples)} == {"train", "val", "test"}
        pairs = {(patients[sample.file], sample.split) for sample in samples}
        assert len(pairs) == 30
    # The labels are found without --data.target: neither the groups nor the times are among them.
    scans[["scan", "patient", "taken", "age"]].to_csv("scans.csv", index=False)
    data = ImageFolderDataModule("photos", labels="scans.csv", groups="patient", time="taken", split=None)
    assert data._images.labeled.task == "regression"


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [
        (lambda label, patient, number: f"{label}/patient_{patient}/{number}.png", "folder"),
        (lambda label, patient, number: f"{label}/patient_{patient}/deep/{number}.png", "folder"),
        (lambda label, patient, number: f"{label}/p{patient}_{number}.png", "^p([0-9]+)_"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_paths_tell_the_groups_of_class_folders(layout: Callable[[str, int, int], str], pattern: str) -> None:
    class_folders(layout)
    found = pd.DataFrame(read(groups=pattern)._samples)
    found["patient"] = found["file"].str.extract(r"/p(?:atient_)?(\d+)")
    assert found["patient"].nunique() == 12
    assert (found.groupby("patient")["split"].nunique() == 1).all()
    assert {*found["split"]} == {"train", "val", "test"}


def test_given_splits_that_tear_a_group_or_turn_time_back_are_refused(scans: pd.DataFrame) -> None:
    def refused(**options: str) -> str:
        with pytest.raises(ValueError, match=r".") as error:
            read(**options)
        assert len(str(error.value)) < 280
        return str(error.value)

    by_patient = scans["patient"].map(dict(zip(scans["patient"].unique(), ["train", "val", "test"] * 10, strict=True)))
    scans["split"] = by_patient
    scans.to_csv("good.csv", index=False)
    last = scans.index[scans["patient"] == scans["patient"][0]][-1]
    first = scans.index[scans["patient"] == scans["patient"][0]][0]
    scans.loc[last, "split"] = "test"
    scans.to_csv("torn.csv", index=False)
    expected = (
        f"column patient of {{}}: {scans['patient'][0]} is in train ({first:02}.png) and in test ({last:02}.png): a "
        "group must be in one split"
    )
    assert expected.format("torn.csv") in refused(labels="torn.csv", target="state", groups="patient")
    read(labels="good.csv", target="state", groups="patient")

    rows = [("file", "class", "split"), *scans[["scan", "state", "split"]].itertuples(index=False)]
    with Path("split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    given = {"split": "split.csv", "labels": "scans.csv", "target": "state"}
    assert expected.format("scans.csv") in refused(**given, groups="patient")
    line = refused(**given, time="taken")
    assert "column taken of scans.csv: " in line
    assert "is older than" in line
    assert "test and validation images must not be older than training images" in line
    with Path("split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*rows[:-1], ("new.png", "ill", "train")])
    photo("new.png", 1000)
    assert "scans.csv has no rows for images that split.csv lists: new.png" in refused(**given, groups="patient")


def test_a_group_in_two_split_folders_is_refused() -> None:
    class_folders(lambda label, patient, number: f"{'train' if number % 2 else 'test'}/{label}/p{patient}_{number}.png")
    message = r"^--data.groups \^\(p.*: p0 is in train \(train/ill/p0_1.png\) and in test \(test/ill/p0_0.png\): a"
    with pytest.raises(ValueError, match=message):
        read(groups=r"^(p\d+)_")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": "patient"}, "--data.groups patient: without --data.labels, give folder, or a regular expression"),
        ({"groups": "(p"}, "--data.groups (p: missing ), unterminated subpattern at position 0: give folder, or"),
        ({"groups": "^(q.)_"}, "--data.groups ^(q.)_: ill/p0_0.png does not match (60 such images): rename it"),
        ({"groups": "folder"}, "folder: ill/p0_0.png has no folder below that of its class (60 such images): move"),
        ({"groups": "(p)"}, "--data.groups (p): of the 60 images left for `test_split`, no group can be held out"),
        ({"time": "taken"}, "--data.time taken needs a label file with this column: add --data.labels"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_paths_that_tell_no_groups_are_named(options: dict[str, str], message: str) -> None:
    class_folders(lambda label, patient, number: f"{label}/p{patient}_{number}.png")
    with pytest.raises(ValueError, match=r".") as error:
        read(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": "patients"}, "`groups`: scans.csv has no column patients: did you mean patient?"),
        ({"groups": "state", "target": "state"}, "`groups`: state is the target: choose another column"),
        (
            {"groups": "patient"},
            "column patient of scans.csv: row 7 (counted from 0, line 9) is empty: fill it in, or remove",
        ),
        ({"time": "state", "target": "patient"}, "column state of scans.csv holds no dates, times or numbers, such as"),
    ],
)
def test_columns_that_can_not_split_are_named(scans: pd.DataFrame, options: dict[str, str], message: str) -> None:
    scans.loc[7, "patient"] = None
    scans.to_csv("scans.csv", index=False)
    with pytest.raises(ValueError, match=r".") as error:
        read(**{"labels": "scans.csv", "target": "state"} | options)
    assert message in str(error.value)


def test_each_image_is_tested_in_one_fold_stratified_by_class(scans: pd.DataFrame) -> None:
    def folds(number: int, **options: Any) -> list[set[str]]:
        tested = []
        for fold in range(1, number + 1):
            data = read(labels="scans.csv", target="state", fold=f"{fold}/{number}", **options)
            assert {*Counter(sample.split for sample in data._samples)} == {"train", "val", "test"}
            tested.append({sample.file for sample in data._samples if sample.split == "test"})
        assert sorted(file for files in tested for file in files) == [*scans["scan"]]
        return tested

    splitter = StratifiedKFold(4, shuffle=True, random_state=42).split(scans, scans["state"])
    assert folds(4) == [{*scans["scan"][rows]} for _, rows in splitter]
    for row in range(3):
        photo(f"{row:02}.png", 40 + row)  # copies are tested together
    for files in folds(3):
        assert all((f"{row:02}.png" in files) == (f"{40 + row}.png" in files) for row in range(3))
    for files in folds(3, groups="patient"):
        assert scans["patient"][scans["scan"].isin(files)].nunique() <= 12
        assert not {*scans["patient"][scans["scan"].isin(files)]} & {*scans["patient"][~scans["scan"].isin(files)]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "6/5"}, "`fold` must be a fold and the number of folds, such as 1/5, got 6/5"),
        ({"fold": "1/5", "split": "split.csv"}, "`fold` 1/5 and `split` both define the test images"),
        ({"fold": "1/5", "time": "taken"}, "--data.fold 1/5 would test on images older than training images"),
        ({"fold": "1/5", "labels": "given.csv"}, "`fold` 1/5 and the given splits both define the test images"),
        ({"fold": "1/100"}, "100 folds need at least 100 images, got 90"),
        ({"fold": "1/40", "groups": "patient"}, "40 folds need at least 40 groups, got 30"),
    ],
)
def test_impossible_folds_are_named(scans: pd.DataFrame, options: dict[str, Any], message: str) -> None:
    scans.assign(split=["test"] * 30 + ["train"] * 60).to_csv("given.csv", index=False)
    with pytest.raises(ValueError, match=r".") as error:
        read(**{"labels": "scans.csv", "target": "state"} | options)
    assert message in str(error.value)


def test_a_fold_with_all_images_of_a_class_is_named(scans: pd.DataFrame) -> None:
    scans.assign(state=scans["state"].where(scans.index != 3, "rare")).to_csv("rare.csv", index=False)
    messages = []
    for fold in ("1/2", "2/2"):
        try:
            read(labels="rare.csv", target="state", fold=fold)
        except ValueError as error:
            messages.append(str(error))
    [message] = messages
    assert "tests on all images of a class (that of 03.png), so that none is left to train on: use fewer" in message


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_images_are_cross_validated(kindling: Command) -> None:
    class_folders(lambda label, patient, number: f"{label}/patient_{patient}/{number}.png")
    result = kindling("repeat", "--folds", 3, *FIT[1:-2], "--data.groups", "folder", "--format", "json")
    assert result.code == 0, result.err
    predictions = pd.read_csv("runs/repeat/repeat_0/predictions.csv")
    assert sorted(predictions["file"]) == sorted(str(p.relative_to("photos")) for p in Path("photos").rglob("*.png"))
    patients = predictions["file"].str.extract(r"patient_(\d+)")[0]
    assert (predictions["fold"].groupby(patients).nunique() == 1).all()
    summary = json.loads(result.out)["test/accuracy"]
    for name, rows in predictions.groupby("fold"):
        assert (rows["label"] == rows["prediction"]).mean() == pytest.approx(summary["values"][name])
    run = "runs/repeat/repeat_0/fold_2/version_0"
    assert kindling("test", "--ckpt_path", run).code == 0
    assert {*pd.read_csv(f"{run}/predictions.csv")["file"]} == {*predictions["file"][predictions["fold"] == "fold_2"]}
