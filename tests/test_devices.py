"""Several processes of one training, over gloo on the CPU."""

import json
from pathlib import Path

import pytest
from ranks import Ranks

from conftest import TINY, Command

RUN = Path("runs/tiny/version_0")


def test_splits_of_fewer_samples_than_processes_are_evaluated_as_by_one(kindling: Command) -> None:
    few = ["--data.num_samples", "10", "--data.num_classes", "2", "--data.val_split", "2", "--data.batch_size", "2"]
    results = Ranks("fit", *TINY, *few, world_size=3).wait()
    assert [(result.code, result.err) for result in results] == [(0, "")] * 3
    figures = json.loads((RUN / "test_metrics.json").read_text())
    predictions = (RUN / "predictions.csv").read_text()
    assert predictions.count("\n") == 1 + 2
    record = json.loads((RUN / "run.json").read_text())
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert json.loads((RUN / "test_metrics.json").read_text()) == pytest.approx(figures, abs=1e-6)
    assert (RUN / "predictions.csv").read_text() == predictions
    assert f"{record['best']['val/loss']:.4f}" in kindling("validate", "--ckpt_path", "best").out
