"""Rows to predict, on the command line and in Python."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch import Trainer
from PIL import Image

from conftest import Command
from kindling import MLPClassifier, TableDataModule, load


@pytest.mark.slow
def test_rows_are_accepted_in_every_container(kindling: Command) -> None:
    ages = [20 + row * 7 % 50 for row in range(100)]
    frame = pd.DataFrame([{"age": age, "plan": ("gold", "basic")[age % 2], "left": age > 40} for age in ages])
    frame.to_csv("customers.csv", index=False)
    table = ["--data", "TableDataModule", "--data.path", "customers.csv", "--data.target", "left"]
    assert kindling("fit", "--model", "MLPClassifier", *table, "--run_name", "table").code == 0
    model = load()
    new = frame.drop(columns="left")
    new.to_csv("new.csv", index=False)
    expected = model.predict(new).probabilities
    assert expected.shape == (100, 2)
    for way in (new[["plan", "age"]], "new.csv", Path("new.csv"), new.to_dict("records")):
        np.testing.assert_allclose(model.predict(way).probabilities, expected, rtol=1e-5, atol=1e-6)
    one = model.predict({"age": 30, "plan": "gold"})
    np.testing.assert_allclose(one.probabilities, expected[30:31], rtol=1e-5, atol=1e-6)
    assert kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv").code == 0
    (written,) = (
        path for path in Path("runs/table/version_0").glob("predictions*.csv") if len(pd.read_csv(path)) == 100
    )
    np.testing.assert_allclose(pd.read_csv(written)[["false", "true"]], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="lacks columns that the model was trained with: plan"):
        model.predict({"age": 30})
    with pytest.raises(ValueError, match="takes rows with the columns age, plan, not images"):
        model.predict(Image.new("L", (3, 3)))


def test_a_table_is_learned_and_new_rows_are_predicted(kindling: Command) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.integers(18, 90, 120), "town": random.choice(["Ulm", "Bonn"], 120)})
    frame["churned"] = np.where(frame["age"] > 50, "yes", "no")
    frame.to_csv("customers.csv", index=False)
    frame[:7].drop(columns="churned").to_csv("new.csv", index=False)

    data = TableDataModule("customers.csv", target="churned")
    model = MLPClassifier.for_data(data, hidden=(16,))
    trainer = Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, data)
    trainer.save_checkpoint("model.ckpt")
    labels, probabilities = load("model.ckpt").predict("new.csv")

    result = kindling("predict", "--ckpt_path", "model.ckpt", "--data.predict", "new.csv")
    assert result.code == 0, result.err
    rows = pd.read_csv("model/predictions_new.csv").to_dict("records")
    assert len(rows) == 7
    assert [row["prediction"] for row in rows] == labels
    assert [[row[name] for name in ("no", "yes")] for row in rows] == [
        pytest.approx(row, abs=1e-5) for row in probabilities.tolist()
    ]
