import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import Command
from kindling.data.checks.report import CHECKS

RECIPE = ("check", "--config", "table_mlp", "--data.path", "rows.csv", "--data.target", "kind")


@pytest.fixture
def rows(folder: Path) -> pd.DataFrame:
    """Clean rows of two numbers and three classes."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, 240)
    frame = pd.DataFrame({"a": kinds * 8 + random.normal(size=240), "b": random.normal(size=240)})
    frame = frame.assign(kind=np.array(["x", "y", "z"])[kinds])
    frame.to_csv("rows.csv", index=False)
    return frame


def test_clean_data_ends_with_0_and_no_file_is_written(kindling: Command, rows: pd.DataFrame) -> None:
    before = sorted(Path().rglob("*"))
    result = kindling(*RECIPE)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("rows.csv: 240 samples (")
    assert result.out.endswith("no findings\n")
    assert "│ x " in result.out
    assert sorted(Path().rglob("*")) == before


def test_errors_end_with_1_and_warnings_only_if_strict(kindling: Command, rows: pd.DataFrame) -> None:
    rows["constant"] = 1
    rows.to_csv("rows.csv", index=False)
    result = kindling(*RECIPE)
    assert result.code == 0
    assert (
        """warning: columns: column constant is constant
  -> --data.drop '["constant"]'

0 errors, 1 warning
"""
        in result.out
    )
    assert kindling(*RECIPE, "--strict").code == 1
    assert kindling(*RECIPE, "--strict", "--ignore", "[columns]").code == 0
    assert kindling(*RECIPE, "--strict", "--data.drop", '["constant"]').code == 0

    rows["outcome"] = rows["kind"].str.upper() + "!"
    rows.to_csv("rows.csv", index=False)
    result = kindling(*RECIPE)
    assert result.code == 1
    assert "error: leak: column outcome alone determines the target kind\n" in result.out
    assert result.err == "kindling: error: rows.csv: 1 error, 1 warning; each is listed above with what to do\n"
    assert result.out.endswith("1 error, 1 warning\n")
    result = kindling(*RECIPE, "--format", "json")
    assert result.code == 1
    report = json.loads(result.out)
    assert (report["errors"], report["warnings"], report["exit_code"]) == (1, 1, 1)
    assert report["findings"][0]["check"] == "leak"
    assert {finding["check"] for finding in report["findings"]} <= {*CHECKS}
    assert sum(report["sizes"].values()) == 240


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--config table_mlp --data.path no.csv --data.target kind", 1, "no.csv not found"),
        ("--data TableDataModule --data.path rows.csv --data.target kin", 1, "rows.csv has no column kin"),
        (
            "--data TableDataModule --data.path rows.csv --data.target kind --model.dropout 1",
            2,
            "check takes the options",
        ),
        ("--data TableDataModule --data.path rows.csv --data.tarjet kind", 2, "did you mean data.target?"),
        ("--data SyntheticDataModule --ignore [lables]", 1, "there is no check lables: did you mean labels?"),
        ("--data SyntheticDataModule --out no/check.html", 2, "--out no/check.html: there is no folder no"),
        ("--data SyntheticDataModule --data.batch_size 0", 1, "batch_size"),
        ("--config tabel_mlp", 2, "did you mean table_mlp?"),
        ("", 2, "data"),
    ],
)
def test_mistakes_end_in_one_line(kindling: Command, options: str, code: int, message: str) -> None:
    result = kindling("check", *options.split())
    assert result.code == code
    [line] = result.err.strip().splitlines()
    assert message in line
    assert len(line) < 300


def test_the_help_page_shows_its_own_options(kindling: Command) -> None:
    page = kindling("check", "--help").out
    assert page.startswith("usage: kindling check [--config FILE ...] [--OPTION VALUE ...]")
    for option in ("--config", "--data", "--format", "--strict", "--ignore", "--plugin"):
        assert option in page
    assert "--trainer" not in page
    assert "  check " in kindling("--help").out


def test_a_data_module_of_a_plugin_is_checked(kindling: Command) -> None:
    Path("mine.py").write_text(
        "from kindling import SyntheticDataModule\n\n\n"
        "class Mine(SyntheticDataModule):\n"
        "    def load(self, split):\n"
        "        return super().load('train')  # the test split too\n"
    )
    result = kindling("check", "--plugin", "mine.py", "--data", "Mine", "--data.num_samples", "300")
    assert result.code == 1
    assert "error: copies: " in result.out
