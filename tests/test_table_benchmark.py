"""`scripts/benchmark.py tables` on two tiny tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import benchmark_tables
from table_sets import TableSet

METHODS = ["kindling fit", "linear"]


@pytest.fixture
def two_sets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    x = np.random.default_rng(0).normal(size=100)
    frame = pd.DataFrame({"x": x, "size": 10 * x + 50, "side": np.where(x > 0, "right", "left")})
    sets = {"sizes": TableSet(lambda: frame, "size", ("side",)), "sides": TableSet(lambda: frame, "side", ("size",))}
    monkeypatch.setattr(benchmark_tables, "HELD_OUT", sets)
    monkeypatch.setattr(benchmark_tables, "NUMBERS", {"sizes"})
    return list(sets)


@pytest.mark.slow
def test_methods_are_scored_on_classes_and_numbers_and_are_not_measured_again(
    two_sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = benchmark_tables.tables(1, two_sets, METHODS, tmp_path)["results"]
    scores = {(one["set"], one["method"]): one.get("nrmse", one.get("accuracy")) for one in results}
    assert scores["sizes", "linear"] < 0.02
    assert scores["sizes", "kindling fit"] < 0.5
    assert scores["sides", "linear"] >= 0.9
    assert scores["sides", "kindling fit"] >= 0.9
    with (tmp_path / "tables.jsonl").open("a") as file:
        file.write(json.dumps(results[0])[:20])  # stopped while it wrote
    monkeypatch.setattr(benchmark_tables, "run", None)
    assert benchmark_tables.tables(1, two_sets, METHODS, tmp_path)["results"] == results


def test_seconds_are_divided_by_those_of_realmlp() -> None:
    seconds = {("a", "kindling fit"): [2, 4], ("a", "RealMLP-TD-S"): [10, 2], ("b", "kindling fit"): [1, 1]}
    seconds["b", "RealMLP-TD-S"] = [24, 2]
    results = [
        {"set": name, "method": method, "seconds": value}
        for (name, method), values in seconds.items()
        for value in values
    ]
    table = benchmark_tables.tabulate(results, ["kindling fit", "RealMLP-TD-S"], ["a", "b"], "seconds", "")
    assert list(table.columns[-1].cells) == ["0.50", "0.08", "0.21"]
