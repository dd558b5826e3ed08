"""Runs with several processes, over gloo on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import torch
import yaml
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.utils.data._utils import worker

from conftest import LOADING, TINY, Command, Train, different
from kindling.cli import main
from kindling.cli.trainer_setup import replace_spawn
from kindling.training.launcher import Launcher
from kindling.training.orphans import end_with_parent
from kindling.training.process_connections import PeerError
from ranks import Ranks

RUN = Path("runs/tiny/version_0")


@pytest.mark.slow
def test_splits_of_fewer_samples_than_processes_are_evaluated_as_by_one(kindling: Command) -> None:
    few = ["--data.num_samples", "10", "--data.num_classes", "2", "--data.val_split", "2", "--data.batch_size", "4"]
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


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Return a launcher for a second process, and restore the environment."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("kindling.training.launcher.GRACE_SECONDS", 1.0)
    return Launcher(_SubprocessScriptLauncher(LightningEnvironment(), 2, 1), lambda: print("cleaned up"))


def second_process(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr("kindling.training.launcher._basic_subprocess_cmd", lambda: [sys.executable, "-c", code])


def lose_connection() -> NoReturn:
    raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234. This is typical")


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        ("import sys; sys.exit('a warning\\nkindling: error: no such file')", "no such file", ""),
        ("import os; os.kill(os.getpid(), 9)", r"process 2 of 2 was killed \(SIGKILL\)", ""),
        ("import sys; sys.exit('kindling: interrupted')", "process 2 of 2 was interrupted", ""),
        ("0 / 0", "process 2 of 2 failed", "ZeroDivisionError: division by zero\n"),
        (
            "import time; time.sleep(60)",
            r"lost the connection to another process: Connection closed by peer \[127.0.0.1\]:1234$",
            "",
        ),
    ],
    ids=["error", "killed", "interrupted", "bug", "running"],
)
def test_the_error_of_another_process_is_reported_once(
    launcher: Launcher,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    code: str,
    message: str,
    shown: str,
) -> None:
    second_process(monkeypatch, code)
    with pytest.raises(PeerError, match=f"^{message}"):
        launcher.launch(lose_connection)
    assert launcher.procs[0].wait(10) != 0
    printed = capfd.readouterr().err
    assert printed == shown if not shown else printed.endswith(shown)


def test_an_error_of_the_main_process_ends_the_others_silently(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    second_process(monkeypatch, "import sys, time; print('the same', file=sys.stderr, flush=True); time.sleep(60)")
    with pytest.raises(ZeroDivisionError):
        launcher.launch(lambda: 0 // 0)
    assert launcher.procs[0].wait(10) == -signal.SIGKILL
    assert capfd.readouterr().err == ""


def test_the_main_process_does_not_wait_for_one_that_has_failed(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    second_process(monkeypatch, "import sys; sys.exit('kindling: error: no such file')")

    def wait() -> None:
        until = time.monotonic() + 20
        while not codes and time.monotonic() < until:
            time.sleep(0.05)

    launcher.launch(wait)
    assert codes == [1]
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("cleaned up\n", "kindling: error: no such file\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
@pytest.mark.parametrize("gone", [True, False])
def test_a_process_ends_even_if_the_main_one_ended_before_it_started(
    monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """If the main process is killed while the others start, they would wait for its address forever."""
    monkeypatch.setenv("KINDLING_PARENT", str(-1 if gone else os.getpid()))
    if (process := os.fork()) == 0:
        end_with_parent()
        time.sleep(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == int(gone)


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork_find_unused_parameters_true", "ddp_notebook"])
@pytest.mark.usefixtures("console_logs")
def test_processes_are_started_as_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "ddp_find_unused_parameters_true" if "unused" in name else "ddp"
    assert replace_spawn(name) == expected
    assert (
        capsys.readouterr().err
        == f"--trainer.strategy {'_'.join(name.split('_')[:2])} is for notebooks and scripts; using ddp instead\n"
    )
    strategy: Any = replace_spawn(DDPStrategy(start_method="spawn"))
    assert strategy._start_method == "popen"
    assert (replace_spawn("auto"), replace_spawn("fsdp")) == ("auto", "fsdp")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_data_workers_end_if_training_is_killed_while_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    load = worker._worker_loop

    def start_slowly(*options: Any) -> None:
        time.sleep(2)
        load(*options)

    monkeypatch.setattr(worker, "_worker_loop", start_slowly)
    if (command := os.fork()) == 0:
        os._exit(main(["fit", *TINY, "--data.num_workers", "2"]))
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        time.sleep(0.02)
        workers = psutil.Process(command).children()
    os.kill(command, signal.SIGKILL)
    os.waitpid(command, 0)
    left = psutil.wait_procs(workers, timeout=15)[1]  # each looks every 5 seconds
    for process in left:
        process.kill()
    assert left == []


@pytest.mark.slow
def test_a_process_terminated_during_the_test_ends_the_others(trained: Train) -> None:
    trained(*TINY)
    callback = {"class_path": "helpers.SignalInTest", "init_args": {"number": int(signal.SIGTERM), "rank": 1}}
    options = ["--trainer.callbacks", json.dumps([callback]), "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    command = [sys.executable, "-m", "kindling", "test", "--ckpt_path", str(RUN), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    error = "kindling: error: process 2 of 2 was interrupted\n"
    assert (ended.returncode, ended.stderr.removeprefix(LOADING)) == (1, error)


# Four steps per epoch, without plots at the end.
LONG = [*TINY, *"--model.dropout 0.3 --trainer.max_epochs 3 --test_after_fit false --trainer.logger false".split()]
LONG += ["--data.batch_size", "64"]


def signal_at(step: int, number: int, *ranks: int) -> list[str]:
    """Return options that send a signal to some of the processes within a training step."""
    init_args = [{"step": step, "number": number, "rank": rank} for rank in ranks]
    callbacks = [{"class_path": "helpers.SignalAt", "init_args": arguments} for arguments in init_args]
    return ["--trainer.callbacks", json.dumps(callbacks)]


@pytest.mark.slow
def test_killed_and_interrupted_processes_resume_exactly() -> None:
    """First the second process is killed (with the strategy ddp_spawn), then one or both get each signal."""
    devices = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp_spawn"]
    command = [sys.executable, "-m", "kindling", "fit", *LONG, *devices, *signal_at(6, signal.SIGKILL, 1)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    replaced = "--trainer.strategy ddp_spawn is for notebooks and scripts; using ddp instead\n"
    assert (ended.returncode, ended.stderr.removeprefix(LOADING)) == (
        1,
        f"{replaced}kindling: error: process 2 of 2 was killed (SIGKILL)\n",
    )
    assert f"fit --ckpt_path {RUN}" in ended.stdout
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["strategy"] == "ddp"

    last = RUN / "checkpoints/last.ckpt"
    for number, step, ranks, code, saved in (
        (signal.SIGTERM, 4, (1,), 143, 5),
        (signal.SIGINT, 5, (0,), 1, 6),
        (signal.SIGKILL, 9, (0, 1), -signal.SIGKILL, 8),
    ):
        stopped = Ranks("fit", "--ckpt_path", RUN, *signal_at(step, number, *ranks)).wait()
        assert [result.code for result in stopped] == [code] * 2
        assert torch.load(last, weights_only=True)["global_step"] == saved
    resumed = Ranks("fit", "--ckpt_path", RUN, "--trainer.callbacks", "null").wait()
    assert [(result.code, result.err) for result in resumed] == [(0, "")] * 2
    assert [result.code for result in Ranks("fit", *LONG, "--run_name", "straight").wait()] == [0, 0]
    assert different("runs/straight/version_0/checkpoints/last.ckpt", last) == []
    assert not list(RUN.rglob(".*"))
