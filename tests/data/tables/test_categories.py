"""Columns with many categories: shops, postcodes, products."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Command
from kindling import load
from kindling.data.tables import categories
from kindling.data.tables.categories import are_codes, learn_categories, learn_target
from kindling.data.tables.rows import encode_cells, encode_rows, frame_cells
from rows import one_column, read

pytestmark = pytest.mark.usefixtures("console_logs")

SHOPS = (
    "fit --model MLPClassifier --data TableDataModule --data.path shops.csv --data.target y --run_name shops "
    "--model.optimizer.lr 0.01 --trainer.max_epochs"
).split()


def shops(rows: int, number: int, name: Callable[[int], object], classes: int = 2) -> pd.DataFrame:
    """Return rows of shops, each with its own class, and an uninformative number."""
    random = np.random.default_rng(0)
    shop = random.integers(0, number, rows)
    label = random.permutation(np.arange(number) % classes)[shop]
    return pd.DataFrame({"shop": [*map(name, shop.tolist())], "noise": random.normal(size=rows), "y": label})


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("rows", "number", "name", "classes", "accuracy"),
    [
        pytest.param(2000, 100, "shop {}".format, 2, 0.99, id="100 shops"),
        pytest.param(4000, 400, "shop {}".format, 2, 0.99, id="400 shops"),
        pytest.param(2000, 100, lambda shop: 1000 + 7 * shop, 2, 0.99, id="numbers"),
        pytest.param(3000, 200, lambda shop: f"{1000 + 433 * shop:05}", 3, 0.99, id="postcodes, three classes"),
        pytest.param(700, 400, "shop {}".format, 2, 0.8, id="400 shops in 700 rows, of which 14% are in no other"),
    ],
)
def test_many_informative_categories_are_learned(
    kindling: Command, rows: int, number: int, name: Callable[[int], object], classes: int, accuracy: float
) -> None:
    shops(rows, number, name, classes).to_csv("shops.csv", index=False)
    result = kindling(*SHOPS, 6)
    assert result.code == 0, result.err
    metrics = json.loads(Path("runs/shops/version_0/test_metrics.json").read_text())
    assert metrics["test/accuracy"] >= accuracy


def test_unseen_shops_are_reported_and_the_other_columns_decide(kindling: Command) -> None:
    frame = shops(1500, 100, "shop {}".format)
    frame.to_csv("shops.csv", index=False)
    assert kindling(*SHOPS, 1).code == 0
    new = frame[:500].assign(shop=[f"new {row}" for row in range(490)] + ["shop 3"] * 10)
    new.to_csv("new.csv", index=False)
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv")
    assert result.code == 0, result.err
    line = (
        "column shop of new.csv: 490 of 500 rows have a value unseen in training, such as new 0, new 1, new 2; "
        "they are encoded without a category"
    )
    assert line in result.err.splitlines()
    model = load()
    assert model.predict({"shop": "new", "noise": 0}).probabilities.shape == (1, 2)
    assert len(json.dumps(model.card.as_dict())) < 10_000


@pytest.mark.slow
def test_unseen_categories_in_the_only_column_are_refused(kindling: Command) -> None:
    frame = shops(1500, 100, "shop {}".format)[["shop", "y"]]
    frame.to_csv("shops.csv", index=False)
    assert kindling(*SHOPS, 1).code == 0
    frame[:50].assign(shop="new").to_csv("new.csv", index=False)
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "new.csv: 50 of 50 rows have a value unseen in training, such as new; the model knows shop" in result.err


def test_encodings_are_shrunk_shares_and_out_of_fold_for_training_rows() -> None:
    random = np.random.default_rng(1)
    shop = random.integers(0, 60, 600)
    label = (random.random(600) < 0.1 + 0.8 * (shop % 7) / 6).astype(int)
    learned: dict[str, Any] = {"kind": "category", "missing": False, "missing_values": [], "name": "shop"}
    names = [f"shop {number}" for number in range(60)]
    learned |= learn_categories("shop", shop, names, label)
    counts = pd.Series(label).groupby(shop).agg(["sum", "size"])
    assert learned["prior"] == [pytest.approx(label.mean())]
    assert 0.5 < learned["smoothing"] < 10
    expected = (counts["sum"] + learned["smoothing"] * label.mean()) / (counts["size"] + learned["smoothing"])
    assert np.array(learned["encodings"])[:, 0] == pytest.approx(expected.to_numpy(), abs=1e-6)

    frame = pd.DataFrame({"shop": [names[place] for place in shop]})
    held_out = np.arange(600) % 10 == 0
    cells = frame_cells(frame, [learned])
    features = encode_cells(cells, [learned], "here", None, np.where(held_out, -1, label))[:, -1]
    assert features[held_out] == pytest.approx(expected[shop[held_out]].to_numpy(), abs=1e-6)
    fifths = np.random.RandomState(0).permutation(np.count_nonzero(~held_out)) % 5
    for fold in range(5):
        own = fifths == fold
        others, rest = label[~held_out][~own], shop[~held_out][~own]
        for row, place in zip(features[~held_out][own][:20], shop[~held_out][own], strict=False):
            ones, rows = others[rest == place].sum(), np.count_nonzero(rest == place)
            assert row == pytest.approx((ones + learned["smoothing"] * label.mean()) / (rows + learned["smoothing"]))


def test_encodings_do_not_depend_on_held_out_rows() -> None:
    frame = shops(1000, 100, "shop {}".format)
    frame.to_csv("shops.csv", index=False)
    first = read("shops.csv", "y")
    held_out = first.splits != "train"
    frame.loc[held_out, "y"] = frame["y"][held_out].sample(frac=1, random_state=0).to_numpy()
    frame.to_csv("shops.csv", index=False)
    splits = pd.DataFrame({"row": range(1000), "split": first.splits})
    splits.to_csv("split.csv", index=False)
    second = read("shops.csv", "y", split="split.csv")
    assert second.fitted["columns"] == first.fitted["columns"]
    assert torch.equal(second.train.inputs, first.train.inputs)


@pytest.mark.slow
def test_training_resumes_with_the_same_features(kindling: Command) -> None:
    shops(1000, 100, "shop {}".format).to_csv("shops.csv", index=False)
    assert kindling(*SHOPS, 1).code == 0
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2).code == 0  # compares a digest of them
    assert kindling("test", "--ckpt_path", "best").code == 0


def test_an_unrelated_column_of_many_categories_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(2)
    frame = pd.DataFrame({"ticket": random.integers(0, 400, 1200), "y": random.integers(0, 2, 1200), "x": range(1200)})
    frame["ticket"] = "T" + frame["ticket"].astype(str)
    frame.assign(x=frame["x"] % 7).to_csv("tickets.csv", index=False)
    data = read("tickets.csv", "y")
    assert data.fitted["left_out"] == {"ticket": "many rare categories, unrelated to the target"}
    assert "left out: ticket (many rare categories, unrelated to the target)" in capfd.readouterr().err


def test_frequent_ones_of_many_categories_have_a_feature_each(capfd: pytest.CaptureFixture[str]) -> None:
    often = [f"city {number:02}" for number in range(50)] * 10
    rare = [f"village {number}" for number in range(20)] * 4
    learned, features = one_column([*rare, *often, "city 03", "village 3"])
    assert learned["values"] == sorted(set(often))
    assert "unseen" not in capfd.readouterr().err  # the rare ones are in the training rows
    assert features.shape[1] == 50 + len(learned.get("encodings", [])[:1])
    assert (features[:80, :50] == 0).all()
    assert features[-2, :50].nonzero().tolist() == [[3]]


def test_numbers_are_codes_if_neighboring_ones_are_unrelated() -> None:
    random = np.random.default_rng(3)
    values = random.integers(0, 100, 3000).astype(float)
    noise = random.random(3000)
    nominal = random.permutation(100)[values.astype(int)] / 100
    for chance, expected in ((nominal, True), (values / 100, False), (np.abs(values - 50) / 50, False), (0.5, False)):
        labels = (noise < chance).astype(int)
        assert are_codes(values, labels) == expected
    codes = (noise < nominal).astype(int)
    assert not are_codes(values / 2, codes)  # halves are measures
    assert not are_codes(values % 20, codes)  # few numbers


def test_the_encoding_of_very_many_categories_is_limited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(categories, "MAX_STORED_NUMBERS", 60)
    codes = np.concatenate([np.repeat(np.arange(60), 20), np.arange(60, 100)])
    learned = learn_target("shop", codes, [f"s{code}" for code in range(100)], codes % 2)
    assert learned["known"] == [f"s{code}" for code in range(60)]
    assert capsys.readouterr().err == "column shop: 40 rows have none of the 60 most frequent categories\n"


def test_unseen_values_are_named_beside_all_of_fifty_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    values = [f"v{value:02}" for value in range(50)]
    column = {"name": "shop", "kind": "category", "values": values, "missing": False, "missing_values": []}
    features = encode_rows(pd.DataFrame({"shop": ["v00", "v49", "other"]}), [column], "new.csv")
    assert features.nonzero()[1].tolist() == [0, 49]
    line = "column shop of new.csv: 1 of 3 rows have a value unseen in training, such as other\n"
    assert capsys.readouterr().err == line
