"""A realistic table of customers, and helpers that fit its columns."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kindling import TableDataModule

FIT = (
    "fit --model MLPClassifier --model.hidden [16] --data TableDataModule --data.path customers.csv "
    "--data.target churned --trainer.max_epochs 2 --run_name tables"
).split()


def customers(number: int = 200) -> pd.DataFrame:
    """Return rows with all kinds of columns; customers who churn tend to be old and on the basic plan."""
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
    """Write customers.csv in the current folder and return its rows."""
    frame = customers()
    frame.to_csv("customers.csv", index=False)
    return frame


def read(path: str = "customers.csv", target: str = "churned", **arguments: Any) -> TableDataModule:
    """Return a data module that has read its training rows."""
    data = TableDataModule(path, target, **arguments)
    data.setup("fit")
    return data


def one_column(values: Sequence[object], **arguments: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the learned encoding of a column, and its features; all rows but the last two are training rows."""
    rows = len(values)
    frame = pd.DataFrame({"value": values, "other": np.arange(rows) % 3, "class": np.arange(rows) % 2})
    frame.to_csv("one.csv", index=False)
    splits = ["train"] * (rows - 2) + ["val", "test"]
    pd.DataFrame({"row": range(rows), "split": splits}).to_csv("one_split.csv", index=False)
    data = read("one.csv", "class", split="one_split.csv", **arguments)
    learned = {column["name"]: column for column in data.fitted["columns"]}
    features = torch.cat([data.train.inputs, data.val.inputs, data.load("test")[0]])
    return learned.get("value", {}), features[:, :-1]  # without `other`


def decode(features: "np.ndarray[Any, Any] | torch.Tensor", learned: dict[str, Any]) -> "np.ndarray[Any, Any]":
    """Return the numbers that scaled features encode."""
    limited = np.asarray(features, dtype=float)
    return np.asarray(limited / np.sqrt(1 - (limited / learned["limit"]) ** 2) * learned["scale"] + learned["center"])


def predictions(path: Path = Path("runs/tables/version_0/predictions.csv")) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
