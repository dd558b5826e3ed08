"""`scripts/soak.py`: what it compares, when it kills, and a few runs that it kills."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import soak
import soak_compare
import soak_configs
import soak_process
import soak_trials
from conftest import CONFIGS, LOADING, TINY, Train
from soak_process import Kill, Outcome

RUN, COPY = Path("runs/tiny/version_0"), Path("copy")
SCRIPT = CONFIGS.parent / "scripts/soak.py"


def change_checkpoint(name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = COPY / "checkpoints" / name
    stored = torch.load(path, weights_only=True)
    change(stored)
    torch.save(stored, path)


def flip_lowest_bit(stored: dict[str, Any]) -> None:
    stored["state_dict"]["network.1.bias"].view(torch.int32)[0] ^= 1


def change_moment(stored: dict[str, Any]) -> None:
    stored["optimizer_states"][0]["state"][0]["exp_avg"][0, 0] += 1


def change_rows(change: Callable[[list[list[str]]], object]) -> None:
    with (COPY / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with (COPY / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def log(step: int, value: float, tag: str = "metrics/loss") -> None:
    with SummaryWriter(COPY / "val", filename_suffix=".2") as writer:
        writer.add_scalar(tag, value, step)


def replace(name: str, old: str, new: str) -> None:
    text = (COPY / name).read_text()
    assert old in text
    (COPY / name).write_text(text.replace(old, new, 1))


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "weight": (
        lambda: change_checkpoint("best.ckpt", flip_lowest_bit),
        "checkpoints/best.ckpt: state_dict.network.1.bias is",
    ),
    "optimizer": (
        lambda: change_checkpoint("last.ckpt", change_moment),
        "checkpoints/last.ckpt: optimizer_states.0.state.0.exp_avg is",
    ),
    "random state": (
        lambda: change_checkpoint("last.ckpt", lambda stored: stored["callbacks"].pop("ExactResume")),
        "checkpoints/last.ckpt: callbacks.ExactResume.",
    ),
    "signature": (
        lambda: change_checkpoint("best.ckpt", lambda stored: stored.update(signature="0" * 64)),
        "checkpoints/best.ckpt: signature is False, not True",
    ),
    "damaged": (
        lambda: (COPY / "checkpoints/last.ckpt").write_bytes(b""),
        "checkpoints/last.ckpt can't be read",
    ),
    "row": (lambda: change_rows(lambda rows: rows.pop()), "metrics.csv: row 8, epoch is missing"),
    "doubled row": (lambda: change_rows(lambda rows: rows.append(rows[-1])), "metrics.csv: row 9, epoch is new"),
    "step": (lambda: log(13, 0.5), "val: metrics/loss, point 2 is new, (13"),
    "tag": (lambda: log(14, 0.5, "metrics/other"), "val: metrics/other, point 0 is new"),
    "no event": (lambda: shutil.rmtree(COPY / "val"), "val/events is missing"),
    "status": (lambda: replace("run.json", '"finished"', '"running"'), "run.json: status is 'running', not 'finished'"),
    "test": (lambda: replace("test_metrics.json", "0.", "0.0"), "test_metrics.json: content is"),
    "predictions": (lambda: replace("predictions.csv", "\n0,", "\n0,x"), "predictions.csv: content is"),
    "temporary file": (lambda: (COPY / ".last.ckpt.1234").touch(), ".last.ckpt.1234 is left over"),
    "missing file": (lambda: (COPY / "report.html").unlink(), "report.html is missing"),
}


@pytest.mark.parametrize(("spoil", "named"), FAULTS.values(), ids=FAULTS)
def test_every_kind_of_difference_is_found(trained: Train, spoil: Callable[[], object], named: str) -> None:
    trained(*TINY)
    shutil.copytree(RUN, COPY)
    assert soak_compare.differences(RUN, COPY) == []
    spoil()
    found = soak_compare.differences(RUN, COPY)
    assert found
    assert found[0].startswith(named)


def test_measurements_of_the_session_are_ignored(trained: Train) -> None:
    trained(*TINY)
    shutil.copytree(RUN, COPY)
    replace("run.json", '"seconds": ', '"seconds": 1')
    change_rows(lambda rows: rows[-1].__setitem__(rows[0].index("samples_per_second"), "1"))
    (COPY / "checkpoints/previous.ckpt").touch()
    assert soak_compare.differences(RUN, COPY) == []


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (0.0, 0, False),
        (1, True, False),
        (float("nan"), float("nan"), True),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1]), torch.tensor([1.0]), False),
        (torch.zeros(2), torch.zeros(2, 1), False),
        (torch.zeros(0), torch.zeros(0), True),
        (torch.tensor(1, dtype=torch.bfloat16), torch.tensor(1, dtype=torch.bfloat16), True),
    ],
)
def test_values_are_the_same_to_the_bit(one: Any, other: Any, is_same: bool) -> None:
    assert soak_compare.same(one, other) is is_same


def test_the_seed_determines_the_kills() -> None:
    trials = [soak_trials.plan("plateau", number, seed=0) for number in range(40)]
    assert trials == [soak_trials.plan("plateau", number, seed=0) for number in range(40)]
    assert trials != [soak_trials.plan("plateau", number, seed=1) for number in range(40)]
    kills = [kill for trial in trials for kill in trial.kills]
    assert {kill.event for kill in kills} == {"time", "save", "write", "train", "validation", "test"}
    assert {kill.signals for kill in kills} == {"KILL", "TERM", "INT", "TERM+KILL"}
    assert any(len(trial.kills) == 2 for trial in trials)
    assert any(trial.fresh for trial in trials)
    ranks = {kill.rank for number in range(40) for kill in soak_trials.plan("ddp", number, seed=0).kills}
    assert ranks == {0, 1, None}


def test_a_kill_that_does_not_hit_is_retried_earlier() -> None:
    trial = soak_trials.plan("plateau", 4, seed=0)
    kill = trial.kills[0]
    tried = list(soak_trials.attempts(kill, trial))
    assert tried == list(soak_trials.attempts(kill, trial))
    assert tried[:2] == [kill, kill._replace(at=kill.at / 2)]
    assert all(other.at < 0.5**number for number, other in enumerate(tried[2:], start=2))
    assert len(tried) == soak_trials.TRIES


class Sessions:
    """Replaces the processes of a run: each writes `run.json`, and is hit or not, as specified."""

    def __init__(self, *outcomes: tuple[bool, int, str]) -> None:
        self.outcomes = list(outcomes)
        self.found: list[list[str]] = []  # files at the start of each session

    def __call__(self, _: object, folder: Path, *__: object) -> Outcome:
        run = folder / "runs/soak/version_0"
        self.found.append(sorted(path.name for path in run.rglob("*")))
        hit, code, status = self.outcomes.pop(0)
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "run.json").write_text(json.dumps({"status": status, "tested": status == "finished"}))
        return Outcome(code, "its last line\n", 1.0, hit, orphans=False)


@pytest.mark.parametrize(
    ("outcomes", "hits", "faults"),
    [
        ([(True, -9, "running"), (False, 0, "finished")], 1, []),
        ([(False, 0, "finished"), (True, -9, "running"), (False, 0, "finished")], 1, []),
        ([(True, -9, "finished")], 1, []),  # killed after it was finished: it is not resumed
        ([(False, 0, "finished")] * soak_trials.TRIES, 0, ["no kill hit the run"]),
        ([(True, -9, "running"), (False, 1, "failed")], 1, ["resumed: exit code 1, its last line"]),
        (
            [(False, 1, "failed"), (True, -9, "finished")],
            1,
            ["KILL at 50% of test, which did not hit it: exit code 1, its last line"],
        ),
    ],
    ids=["hit", "second", "complete", "never", "resume fails", "fails by itself"],
)
def test_a_trial_counts_only_with_a_kill_that_hit(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[tuple[bool, int, str]], hits: int, faults: list[str]
) -> None:
    sessions = Sessions(*outcomes)
    monkeypatch.setattr(soak_trials, "run", sessions)
    monkeypatch.setattr(soak_trials, "differences", lambda *_: [])
    trial = soak_trials.Trial("plateau", 0, (Kill("test", 0.5, "KILL"),), fresh=False)
    reference = soak_trials.Reference(Path("reference"), 1.0, dict.fromkeys(soak_trials.MOMENTS, 9))
    result = soak_trials.run_trial(trial, reference, Path("soak/0"), Path("data"))
    assert (len(result.hits), result.faults) == (hits, faults)
    assert sessions.outcomes == []
    tries = [hit for hit, *_ in outcomes].index(True) + 1 if hits else soak_trials.TRIES
    assert not any(sessions.found[:tries])


@pytest.mark.parametrize(("reference", "hangs"), [(0.1, True), (100.0, False)])
def test_a_process_that_takes_many_times_as_long_counts_as_hanging(
    monkeypatch: pytest.MonkeyPatch, reference: float, hangs: bool
) -> None:
    def become(*_: object) -> None:
        os.setpgid(0, 0)
        time.sleep(1)
        os._exit(0)

    monkeypatch.setattr(soak_process, "_become", become)
    monkeypatch.setattr(soak_process, "TIMEOUT", 0.1)
    monkeypatch.setattr(soak_process, "TIMES", 3.0)
    outcome = soak_process.run([], Path.cwd() / "run", {}, seconds=reference)
    assert (outcome.hangs, outcome.code, outcome.orphans) == (hangs, -signal.SIGKILL if hangs else 0, False)


def test_the_kills_are_shared_by_weight() -> None:
    shares = soak.share([*soak_configs.CONFIGS], 200)
    assert sum(shares.values()) == 200
    assert len(shares) >= 10
    assert all(shares.values())
    assert shares["ddp"] < shares["plateau"]


def test_the_data_is_the_same_each_time() -> None:
    for name in ("one", "other"):
        soak_configs.write_data(Path(name))
    files = [sorted(path for path in Path(name).rglob("*.*") if path.is_file()) for name in ("one", "other")]
    assert len(files[0]) > 61
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert np.unique(np.loadtxt("one/table.csv", str, delimiter=",", skiprows=1)[:, 3]).tolist() == ["no", "yes"]


@pytest.mark.slow
def test_killed_runs_resume_bit_identically() -> None:
    """In the test; while a checkpoint is written; and by SIGTERM, then Ctrl-C."""
    options = ["--config", "plateau", "--only", "4", "8", "13", "--jobs", "1"]
    process = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "3 of 3 in" in process.stdout
    assert process.stdout.endswith("; 4 of 4 kills hit\n")
    assert process.stderr.replace(LOADING, "") == ""
