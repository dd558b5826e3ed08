"""An error in a data-loading process ends in one line, as it does without worker processes."""

import json
from pathlib import Path

import pytest

from conftest import Command


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("value", "cat.jpg is broken"),
        ("os", "[Errno 5] Input/output error: 'cat.jpg' (KINDLING_DEBUG=1 shows where)"),
        ("killed", "a data-loading process was killed, often for lack of memory: try a smaller --data.num_workers"),
    ],
)
def test_an_error_in_a_data_loading_process_is_one_line(kindling: Command, failure: str, message: str) -> None:
    data = ["--data", "helpers.FailingDataModule", "--data.failure", failure, "--run_name", "tiny"]
    result = kindling("fit", "--model", "MLPClassifier", "--model.hidden", "[8]", *data)
    assert result.code == 1
    assert result.err.startswith(f"kindling: error: {message}")
    assert result.err.count("\n") == 1
    record = json.loads(Path("runs/tiny/version_0/run.json").read_text())
    assert record["reason"] == message.partition(" (KINDLING")[0]
