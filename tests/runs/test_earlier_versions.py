"""Runs of version 0.1.0, in tests/files/v0.1, are evaluated, resumed and reproduced as by that version."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import TINY, Command
from kindling import load
from kindling.cli import deprecated_names
from kindling.runs.metadata import RunMetadata

FILES = Path(__file__).parents[1] / "files" / "v0.1"
RUNS = [path.name for path in FILES.iterdir() if path.is_dir()]
# Results of version 0.1.0 after the same step without interruption: the step, the test loss, and the sum of the
# absolute weights of the last layer.
CONTINUED = {
    "synthetic": ("--trainer.max_steps", 25, 1.080738, 3.333995),
    "table": ("--trainer.max_epochs", 3, 0.734697, 2.686989),
}
# Version 0.1.0 did not sign its runs, so paths of data must be typed.
TYPED = {"synthetic": [], "table": ["--data.path", "customers.csv"]}


@pytest.fixture
def run(request: pytest.FixtureRequest, folder: Path) -> Path:
    """Copy a run of version 0.1.0, and its table, to the current folder."""
    shutil.copytree(FILES, folder, ignore=lambda *_: RUNS, dirs_exist_ok=True)
    return Path(shutil.copytree(FILES / request.param, f"runs/{request.param}")) / "version_0"


def test_there_are_runs_of_an_earlier_version() -> None:
    assert set(RUNS) == CONTINUED.keys()


def check_metrics(run: Path, before: dict[str, float]) -> None:
    """Check that a run has the test metrics of an earlier version; it may have others too."""
    now = json.loads((run / "test_metrics.json").read_text())
    assert {name: now[name] for name in before} == pytest.approx(before, abs=1e-4)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_evaluation_gives_the_same_results(kindling: Command, run: Path) -> None:
    before = json.loads((run / "test_metrics.json").read_text())
    predictions = pd.read_csv(run / "predictions.csv")
    for command in ("test", "validate", "predict"):
        result = kindling(command, "--ckpt_path", run, *TYPED[run.parent.name])
        assert (result.code, result.err) == (0, "")
    check_metrics(run, before)
    now = pd.read_csv(run / "predictions.csv")
    assert list(now["prediction"]) == list(predictions["prediction"])
    assert np.allclose(now["probability"], predictions["probability"], atol=1e-4)
    assert run.parent.name in kindling("runs").out
    stored, metadata = json.loads((run / "run.json").read_text()), RunMetadata.read(run)
    assert (metadata.heartbeat, metadata.max_epochs) == (stored["seen"], stored["planned"])
    assert load(run).card.classes


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_training_resumes_to_the_same_weights(kindling: Command, run: Path) -> None:
    option, target, loss, weights = CONTINUED[run.parent.name]
    result = kindling("fit", "--ckpt_path", run, option, target, *TYPED[run.parent.name])
    assert result.code == 0, result.err
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == target  # the table is one batch per epoch
    assert float(last["state_dict"]["network.3.weight"].abs().sum()) == pytest.approx(weights, rel=1e-4)
    assert json.loads((run / "test_metrics.json").read_text())["test/loss"] == pytest.approx(loss, abs=1e-4)
    assert not list(run.parent.glob("version_1"))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_the_configuration_repeats_the_run(kindling: Command, run: Path) -> None:
    before = json.loads((run / "test_metrics.json").read_text())
    assert kindling("fit", "--config", run / "config.yaml").code == 0
    check_metrics(run.parent / "version_1", before)


def test_a_renamed_class_is_found_with_a_hint(kindling: Command) -> None:
    Path("averaged.yaml").write_text("averaging: kindling.callbacks.EMA\n")
    deprecated_names._hint.cache_clear()  # another test may have filled it
    options = ["--trainer.callbacks", "kindling.callbacks.StepFigures", "--config", "averaged.yaml"]
    result = kindling("fit", *TINY, *options)
    notes = [
        "note: kindling.callbacks has been renamed to kindling.training",
        "note: StepFigures has been renamed to TrainingStatsMonitor",
    ]
    assert (result.code, result.err.splitlines()) == (0, notes)
