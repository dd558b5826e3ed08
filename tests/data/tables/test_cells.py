"""The cells of a table column: selected, and parsed once."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kindling.data.images import scan
from kindling.data.tables import cells as cells_module
from kindling.data.tables import column_types
from kindling.data.tables.cells import read_cells
from kindling.data.tables.datamodule import TableDataModule


def test_selected_cells_are_those_of_the_selected_rows() -> None:
    column = pd.Series([" 3 kg", "", "a", "3 kg", None, "-9", "2024-03-01", "7"])
    rows = np.array([7, 1, 6, 0, 4, 5])
    selected = read_cells(column).select(drop={"-9"}).select(rows)
    directly = read_cells(column[rows].reset_index(drop=True), {"-9"})
    assert selected.values == directly.values == ["7", "2024-03-01", "3 kg"]
    assert selected.codes.tolist() == directly.codes.tolist() == [0, -1, 1, 2, -1, -1]
    assert selected.counts.tolist() == [1, 1, 1]
    numbers, units = selected.quantities(".")
    assert units.tolist() == ["", "", "kg"]
    assert np.array_equal(numbers, [7, np.nan, 3], equal_nan=True)
    assert np.array_equal(selected.days(True), directly.days(True), equal_nan=True)


@pytest.mark.slow
def test_each_value_of_a_table_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []

    def count(read: Callable[..., object], values: Iterable[object], option: object) -> object:
        parsed.extend(values)
        return read(values, option)

    for module, name in [
        (cells_module, "read_quantities"),
        (cells_module, "read_days"),
        (column_types, "read_quantities"),
    ]:
        monkeypatch.setattr(module, name, partial(count, getattr(module, name)))
    number, text = [f"{place / 7:.5f}" for place in range(3000)], [f"word {place}" for place in range(3000)]
    table = {"number": number, "text": text, "y": ["lo"] * 1500 + ["hi"] * 1500}
    table["day"] = pd.date_range("2010-01-01", periods=3000).strftime("%d %b %Y")
    pd.DataFrame(table).to_csv(tmp_path / "table.csv", index=False)
    data = TableDataModule(tmp_path / "table.csv", "y")
    data.load_training()
    data.load("test")
    assert [column["kind"] for column in data.fitted["columns"]] == ["number", "date"]
    # Beside a sample of at most 1,000 values of each column that shows what it holds.
    assert len([value for value in parsed if value in {*number}]) < 3000 + 1100
    assert len([value for value in parsed if value in {*text}]) < 2000
    assert parsed.count(number[-1]) == 1


def test_listing_many_images_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one").write_bytes(b"")

    def slow(entry: object) -> str:
        time.sleep(0.1)
        return "empty"

    monkeypatch.setattr("kindling.utils.console.PROGRESS_DELAY", 0.02)
    monkeypatch.setattr(scan, "why_unused", slow)
    assert scan.list_images(photos).unused == {"empty": ["one"]}
    assert capfd.readouterr().out == f"listing the images of {photos} ...\n"


def test_values_that_differ_only_in_spaces_are_equal() -> None:
    cells = read_cells(pd.Series(["red", "red ", None, "blue", " red", "blue"]))
    assert cells.values == ["red", "blue"]
    assert cells.codes.tolist() == [0, 0, -1, 1, 0, 1]
    assert cells.counts.tolist() == [3, 2]
