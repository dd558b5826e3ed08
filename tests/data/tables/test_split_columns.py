from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import Command
from kindling.runs.checkpoints import read_checkpoint
from rows import read

VISITS = (
    "fit --model MLPClassifier --model.hidden [8] --data TableDataModule --data.path visits.csv --data.target ill "
    "--trainer.max_epochs 1 --run_name visits"
).split()


@pytest.fixture
def visits(folder: Path) -> pd.DataFrame:
    """Several visits of each patient, in no order, with dates as people write them."""
    random = np.random.default_rng(0)
    patients = random.integers(0, 30, 200)
    days = pd.Timestamp("2023-11-20") + pd.to_timedelta(random.integers(0, 60, 200), "D")
    frame = pd.DataFrame(
        {
            "patient": [f"P{patient:02}" for patient in patients],
            "visited": days.strftime("%d.%m.%Y"),
            "pulse": random.normal(70, 10, 200).round(1),
            "ill": random.choice(["yes", "no"], 200),
        }
    )
    frame.to_csv("visits.csv", index=False)
    return frame


def splits_of(frame: pd.DataFrame, splits: np.ndarray, column: str) -> dict[str, set[str]]:
    return {name: {*frame[column][splits == name]} for name in ("train", "val", "test")}


def test_the_rows_of_a_group_share_a_split_from_fit_to_test(kindling: Command, visits: pd.DataFrame) -> None:
    result = kindling(*VISITS, "--data.groups", "patient")
    assert result.code == 0, result.err
    run = Path("runs/visits/version_0")
    splits = pd.read_csv(run / "split.csv")["split"].to_numpy()
    train, val, test = splits_of(visits, splits, "patient").values()
    assert train
    assert val
    assert test
    assert not train & val
    assert not train & test
    assert not val & test
    assert abs((splits == "test").sum() - 40) <= 3
    assert abs((splits == "val").sum() - 16) <= 3
    learned = read_checkpoint(run / "checkpoints/best.ckpt")["TableDataModule"]
    assert [column["name"] for column in learned["columns"]] == ["visited", "pulse"]  # the group is no feature
    assert kindling("test", "--ckpt_path", "best", "--data.split_seed", "7").code == 0
    assert len(pd.read_csv(run / "predictions.csv")) == (splits == "test").sum()
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "2").code == 0
    assert (pd.read_csv(run / "split.csv")["split"] == splits).all()
    visits.drop(columns=["patient", "ill"]).to_csv("new.csv", index=False)
    assert kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv").code == 0


def test_the_newest_rows_are_tested(visits: pd.DataFrame) -> None:
    data = read("visits.csv", "ill", time="visited")
    days = pd.to_datetime(visits["visited"], format="%d.%m.%Y")
    newest = {
        name: (days[data.splits == name].min(), days[data.splits == name].max()) for name in ("train", "val", "test")
    }
    assert newest["train"][1] < newest["val"][0]
    assert newest["val"][1] < newest["test"][0]
    assert abs((data.splits == "test").sum() - 40) <= 4
    assert "visited" not in [column["name"] for column in data.fitted["columns"]]
    assert data.fitted["left_out"]["visited"] == "defines the splits"
    late = days.sort_values(kind="stable").index[-20:]  # all of them in test
    visits.assign(ill=visits["ill"].where(~visits.index.isin(late), "new")).to_csv("late.csv", index=False)
    first, day = late[0], visits["visited"][late[0]]
    message = (
        rf"^column visited of late.csv: {day} \(row {first}, .* is the first of class new, .* --data.test_split, or "
    )
    with pytest.raises(ValueError, match=message):
        read("late.csv", "ill", time="visited")
    numbers = visits.assign(visited=(days - days.min()).dt.days / 7)
    numbers.to_csv("numbers.csv", index=False)
    assert (read("numbers.csv", "ill", time="visited").splits == data.splits).all()
    numbers.assign(visited=days).to_parquet("visits.parquet")
    assert (read("visits.parquet", "ill", time="visited").splits == data.splits).all()


@pytest.mark.usefixtures("visits")
def test_numbers_as_targets_are_split_by_group_and_time() -> None:
    assert not {
        *map(
            len,
            splits_of(
                pd.read_csv("visits.csv"), read("visits.csv", "pulse", groups="patient").splits, "patient"
            ).values(),
        )
    } & {0}
    with pytest.raises(
        ValueError, match=r"can't both choose the splits: leave one out, or split the rows with --data.split"
    ):
        read("visits.csv", "pulse", groups="patient", time="visited")


def test_given_splits_that_tear_a_group_or_turn_time_back_are_refused(visits: pd.DataFrame, kindling: Command) -> None:
    data = read("visits.csv", "ill", groups="patient")
    split = pd.DataFrame({"row": range(200), "split": data.splits})
    split.to_csv("good.csv", index=False)
    assert (read("visits.csv", "ill", groups="patient", split="good.csv").splits == data.splits).all()
    row = int(np.flatnonzero(data.splits == "train")[-1])
    first = int(np.flatnonzero(visits["patient"] == visits["patient"][row])[0])
    split.assign(split=split["split"].where(split["row"] != row, "test")).to_csv("torn.csv", index=False)
    result = kindling(*VISITS, "--data.groups", "patient", "--data.split", "torn.csv")
    assert result.code == 1
    assert (
        f"column patient of visits.csv: {visits['patient'][row]} is in train (row {first}, counted from 0) and in test "
        f"(row {row}): a group must be in one split" in result.err
    )
    assert not Path("runs").exists()

    data = read("visits.csv", "ill", time="visited")
    names = data.splits.copy()
    oldest = int(pd.to_datetime(visits["visited"], format="%d.%m.%Y").argmin())
    names[oldest] = "test"
    split.assign(split=names).to_csv("early.csv", index=False)
    result = kindling(*VISITS, "--data.time", "visited", "--data.split", "early.csv")
    assert result.code == 1
    [line] = result.err.strip().splitlines()[-1:]
    assert (
        f"column visited of visits.csv: {visits['visited'][oldest]} (test row {oldest}, counted from 0) is older than"
        in line
    )
    assert len(line) < 300


def test_a_test_file_is_held_to_the_groups_and_times_of_the_training_file(visits: pd.DataFrame) -> None:
    days = pd.to_datetime(visits["visited"], format="%d.%m.%Y")
    old, new = visits[days < "2023-12-30"], visits[days >= "2023-12-30"]
    old.to_csv("old.csv", index=False)
    new.assign(visited=days.dt.strftime("%Y-%m-%d")).to_csv("new.csv", index=False)  # dates in another format
    read("old.csv", "ill", time="visited", test_path="new.csv")
    with pytest.raises(
        ValueError, match=r"column visited of old.csv: \S+ \(test row \d+, counted from 0\) is older than 2024"
    ):
        read("new.csv", "ill", time="visited", test_path="old.csv")
    with pytest.raises(
        ValueError,
        match=r"column patient of new.csv: P\d+ is in test \(row 0, .* and in (train|val) \(row \d+ of old.csv\)",
    ):
        read("old.csv", "ill", groups="patient", test_path="new.csv")
    new.assign(patient="new " + new["patient"]).to_csv("others.csv", index=False)
    read("old.csv", "ill", groups="patient", test_path="others.csv")
    new.drop(columns="patient").to_csv("without.csv", index=False)
    with pytest.raises(ValueError, match=r"`groups`: without.csv has no column patient"):
        read("old.csv", "ill", groups="patient", test_path="without.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": "patients"}, "`groups`: bad.csv has no column patients: did you mean patient?"),
        ({"time": "ill"}, "`time`: ill is the target: choose another column"),
        (
            {"groups": "patient"},
            "column patient of bad.csv: row 7 (counted from 0, line 9) is empty (and 1 more): fill it in",
        ),
        (
            {"time": "visited"},
            "column visited of bad.csv: row 5 (counted from 0, line 7) holds soon, not a date: fill it in",
        ),
        ({"time": "word"}, "column word of bad.csv holds no dates, times or numbers, such as a: --data.time needs"),
        ({"time": "year"}, "column year of bad.csv: of the 200 rows left for `test_split`, all have the same time"),
        ({"groups": "year"}, "column year of bad.csv: of the 200 rows left for `test_split`, no group can be held out"),
    ],
)
def test_columns_that_can_not_split_are_named(visits: pd.DataFrame, arguments: dict[str, str], message: str) -> None:
    visits = visits.assign(word=["a", "b"] * 100, year=2024)
    visits.loc[[7, 9], "patient"] = None
    visits.loc[5, "visited"] = "soon"
    visits.to_csv("bad.csv", index=False)
    with pytest.raises(ValueError, match=r".") as error:
        read("bad.csv", "ill", **arguments)
    assert message in str(error.value)
    assert len(str(error.value)) < 300
