"""A repeat that is killed or stopped at random moments, and continued by the same command, has the same results."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_reader import read as read_report

from conftest import TINY, Command
from kindling import load
from kindling.runs.run import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")

SEEDS = [option for option in TINY if option not in ("--run_name", "tiny")] + ["--seeds", "2"]
FOLDS = (
    "--model MLPClassifier --model.hidden [8] --data TableDataModule --data.path table.csv --data.target y --folds 3 "
    "--trainer.max_epochs 60 --early_stopping.patience null"
).split()


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kindling", "repeat", *command], start_new_session=True, stdout=subprocess.DEVNULL
    )


def training(repeat: Path) -> int | None:
    """Return the process of the run that is training, if any."""
    runs = [Run.read(path.parent) for path in repeat.glob("*/version_*/run.json")]
    return next((run.metadata.process["pid"] for run in runs if run.status == "running"), None)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def metrics(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/{name}/repeat_0/summary.json").read_text())
    return found


@pytest.mark.slow
def test_a_run_that_is_killed_is_named_and_the_same_command_finishes_it(kindling: Command) -> None:
    options = [*SEEDS, "--trainer.max_epochs", "60", "--early_stopping.patience", "null"]
    started = start(*options, "--run_name", "killed")
    pid = wait_for(lambda: training(Path("runs/killed/repeat_0")))
    os.kill(pid, signal.SIGKILL)
    assert started.wait() == 1
    assert not Path("runs/killed/repeat_0/seed_42/version_0/test_metrics.json").exists()
    assert Path("runs/killed/repeat_0/seed_43/version_0/test_metrics.json").exists()
    for name in ("killed", "whole"):
        assert kindling("repeat", *options, "--run_name", name, "--jobs", 2).code == 0
    assert metrics("killed") == metrics("whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_killed_at_random_moments_end_in_the_same_figures(kindling: Command, seed: int) -> None:
    values = np.random.default_rng(0).normal(size=(300, 3)).round(3)
    frame = pd.DataFrame(values, columns=["a", "b", "c"]).assign(y=np.where(values.sum(axis=1) > 0, "yes", "no"))
    frame.to_csv("table.csv", index=False)
    began = time.monotonic()
    assert start(*FOLDS, "--run_name", "whole").wait() == 0
    seconds, moments, kills = time.monotonic() - began, random.Random(seed), list[str]()
    repeat = Path("runs/killed/repeat_0")
    while True:
        started, moment = start(*FOLDS, "--run_name", "killed"), time.monotonic() + moments.uniform(0, seconds)
        while started.poll() is None and time.monotonic() < moment:
            time.sleep(0.01)
        if len(kills) < 6 and started.poll() is None:
            kills.append(moments.choice(["parent", "child", "all", "ctrl-c"]))
            if kills[-1] == "child" and (pid := training(repeat)):
                os.kill(pid, signal.SIGKILL)
            elif kills[-1] in ("all", "ctrl-c"):
                os.killpg(started.pid, signal.SIGKILL if kills[-1] == "all" else signal.SIGINT)
            else:
                started.kill()
        if started.wait() == 0:
            break
        assert kills, "it failed by itself"
    assert metrics("killed") == metrics("whole"), kills
    whole = Path("runs/whole/repeat_0")
    assert (repeat / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert read_report(repeat).tables == read_report(whole).tables
    ours, theirs = (load(path).predict(frame).probabilities for path in (repeat, whole))
    np.testing.assert_array_equal(ours, theirs)
    assert len([*repeat.glob("ensemble/version_*")]) == 1
    assert not [*repeat.rglob("*.tmp*")]
