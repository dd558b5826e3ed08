"""`fit --ckpt_path auto`: the same command is right the first time and every time after."""

import json
import os
import platform
import signal
import time
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch._C._distributed_c10d import TCPStore

from conftest import TINY, Command, Train
from kindling.cli.auto_resume import AutoResume
from kindling.runs.metadata import RunMetadata
from kindling.training.rank_zero_decision import decide_once
from ranks import Ranks, free_port, slurm_environment
from soak_compare import differences

RUN, NEXT = Path("runs/tiny/version_0"), Path("runs/tiny/version_1")
AUTO = ["--ckpt_path", "auto"]
EMPTY_PID = 2**22 + 1  # above the largest PID of Linux


def signal_at(*steps: int, number: int = signal.SIGINT) -> list[str]:
    callbacks = [{"class_path": "helpers.SignalAt", "init_args": {"step": step, "number": number}} for step in steps]
    return ["--trainer.callbacks", json.dumps(callbacks)]


def change_record(run: Path, **changes: Any) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | changes))


def living_process(**other: Any) -> dict[str, Any]:
    """Return a record of the process that started this one."""
    parent = psutil.Process(os.getppid())
    return {"host": platform.node(), "pid": parent.pid, "began": parent.create_time(), **other}


def test_the_same_command_starts_resumes_and_ends(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    RUN.rename("straight")
    command = ["fit", *TINY, *AUTO, *signal_at(3, 10)]
    assert [kindling(*command).code for _ in range(2)] == [1, 1]
    assert kindling(*command).code == 0
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    complete = kindling(*command)
    assert (complete.code, complete.out.count("\n"), complete.err) == (0, 1, "")
    assert complete.out.startswith("nothing is left to train: runs/tiny/version_0/checkpoints/last.ckpt was already")
    assert before == {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    # TensorBoard drops the points of an interrupted session only if its file is a second older than the next one.
    known = ("config.yaml: trainer.callbacks", "train: ", "val: ", "test: ")
    assert [line for line in differences(Path("straight"), RUN) if not line.startswith(known)] == []
    assert len(RunMetadata.read(RUN).commands) == 3


def test_a_run_that_early_stopping_has_ended_is_complete(kindling: Command) -> None:
    still = "--model.optimizer SGD --model.optimizer.lr 0 --trainer.max_epochs 9 --early_stopping.patience 1".split()
    assert kindling("fit", *TINY, *still, *AUTO).code == 0
    again = kindling("fit", *TINY, *still, *AUTO)
    assert (again.code, again.out.count("\n")) == (0, 1)
    assert "was stopped early; raise --early_stopping.patience to continue" in again.out
    assert RunMetadata.read(RUN).epochs == 2


def test_options_of_the_trainer_may_change_and_those_of_model_and_data_start_another_run(
    kindling: Command, trained: Train
) -> None:
    trained(*TINY)
    longer = kindling("fit", *TINY, *AUTO, "--trainer.max_epochs", "3", "--data.num_workers", "0")
    assert (longer.code, RunMetadata.read(RUN).epochs) == (0, 3)
    assert not NEXT.exists()
    change_record(RUN, status="stopped")
    other = kindling("fit", *TINY, *AUTO, "--model.dropout", "0.1")
    reason = f"{RUN}, which is not complete, was started with different options: --model.dropout"
    assert (other.code, f"--ckpt_path auto starts a new run: {reason}\n" in other.err) == (0, True)
    assert (RunMetadata.read(RUN).epochs, RunMetadata.read(NEXT).epochs) == (3, 2)


def test_each_spelling_of_config_names_the_recipe(trained: Train) -> None:
    trained(*TINY)
    for same in (["-c", "one"], ["-c=one"], ["--config", "one"]):
        change_record(RUN, status="stopped", commands=["kindling fit -cone"])
        assert AutoResume.of(["-ctwo", *AUTO]) == AutoResume(["--config=two"])
        resumed = AutoResume.of([*same, *AUTO])
        assert resumed
        assert str(RUN) in resumed.options


def test_a_run_that_is_training_is_not_taken(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    change_record(RUN, status="running", process=living_process())
    assert kindling("fit", *TINY, *AUTO).code == 0
    assert RunMetadata.read(NEXT).status == "finished"


def test_a_run_is_taken_by_one_of_two_commands_that_start_at_the_same_time(trained: Train) -> None:
    trained(*TINY)
    change_record(RUN, status="stopped")
    resumed = AutoResume.of([*TINY, *AUTO])
    assert resumed
    assert resumed.options[-2:] == ["--ckpt_path", str(RUN)]
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(AutoResume.of, ([*TINY, *AUTO],)) == AutoResume(TINY)


def test_looking_at_the_configuration_takes_no_run(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    change_record(RUN, status="stopped")
    before = (RUN / "run.json").read_text()
    assert "max_epochs: 2" in kindling("fit", *TINY, *AUTO, "--print_config").out
    assert "auto (of this command)" in " ".join(kindling("fit", *TINY, *AUTO, "--help").out.split())
    assert (RUN / "run.json").read_text() == before


@pytest.mark.parametrize(
    ("status", "kept"), [("running", ""), ("failed", ""), ("running", "best.ckpt")], ids=["", "failed", "validated"]
)
def test_a_run_that_died_before_its_first_last_checkpoint_starts_over_in_its_folder(
    kindling: Command, trained: Train, status: str, kept: str
) -> None:
    trained(*TINY)
    expected = (RUN / "metrics.csv").read_text().count("\n")
    for checkpoint in (RUN / "checkpoints").iterdir():
        if checkpoint.name != kept:
            checkpoint.unlink()
    change_record(RUN, status=status, process=living_process(pid=EMPTY_PID), epochs=1)
    assert kindling("fit", *TINY, *AUTO).code == 0
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    record = RunMetadata.read(RUN)
    assert (record.status, record.epochs, len(record.commands)) == ("finished", 2, 1)
    assert (RUN / "metrics.csv").read_text().count("\n") == expected


def test_a_complete_run_without_checkpoints_is_left_alone(kindling: Command) -> None:
    options = [*TINY, *AUTO, "--trainer.enable_checkpointing", "false"]
    assert kindling("fit", *options).code == 0
    again = kindling("fit", *options)
    assert (again.code, again.out.count("\n")) == (0, 1)
    assert f"{RUN} is complete" in again.out


def test_a_finished_ensemble_is_complete(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    members = ["--model", "EnsembleClassifier", "--model.checkpoints", json.dumps([str(RUN)])]
    options = [*members, *TINY[4:-2], "--run_name", "ensemble", *AUTO]
    assert kindling("fit", *options).code == 0
    again = kindling("fit", *options)
    assert (again.code, again.err) == (0, "")
    assert "nothing is left to train: runs/ensemble/version_0 is complete" in again.out
    run = Path("runs/ensemble/version_0")
    metrics = (run / "test_metrics.json").read_text()
    (run / "test_metrics.json").unlink()
    change_record(run, tested=False)  # as if it had been killed in its test
    assert kindling("fit", *options).code == 0
    assert (run / "test_metrics.json").read_text() == metrics
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_trained_checkpoints_without_the_last_one_are_kept(kindling: Command, trained: Train, epochs: int) -> None:
    trained(*TINY)
    (RUN / "checkpoints/last.ckpt").unlink()
    change_record(RUN, status="stopped", epochs=epochs)
    result = kindling("fit", *TINY, *AUTO)
    assert result.code == 1
    assert "choose another checkpoint, best.ckpt or previous.ckpt" in result.err
    assert (RUN / "checkpoints/best.ckpt").exists()


def test_a_damaged_checkpoint_is_replaced(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    last = RUN / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    change_record(RUN, status="failed")
    result = kindling("fit", *TINY, *AUTO)
    assert result.code == 0
    assert "last.ckpt is damaged: resuming from best.ckpt" in result.err
    assert not NEXT.exists()


def test_a_run_of_another_user_is_not_taken(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(*TINY)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert AutoResume.of([*TINY, *AUTO]) == AutoResume(TINY)


ARRAY = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "72"}


@pytest.mark.parametrize(
    ("environment", "job", "queue", "is_taken"),
    [
        ({"SLURM_JOB_ID": "70"}, "slurm 70", None, True),
        (ARRAY, "slurm 70_2", None, True),
        (ARRAY, "slurm 70_1", "70_2", False),
        ({"SLURM_JOB_ID": "71"}, "slurm 70", "70\n71", False),
        ({"SLURM_JOB_ID": "71"}, "slurm 70", "71", True),
        ({"SLURM_JOB_ID": "71"}, "slurm 70", None, False),
        ({"SLURM_JOB_ID": "71"}, "", None, True),
        ({}, "slurm 70", None, True),
        ({}, "slurm 70", "70", False),
        ({"TORCHELASTIC_RUN_ID": "b", "RANK": "0", "WORLD_SIZE": "1"}, "torchrun a", None, True),
    ],
    ids=["job", "task", "another task", "queued", "over", "unknown", "no job", "no cluster", "login node", "torchrun"],
)
def test_no_job_takes_a_run_that_another_one_will_resume(
    trained: Train,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    job: str,
    queue: str | None,
    is_taken: bool,
) -> None:
    trained(*TINY)
    change_record(RUN, status="stopped", process={"job": job, "restarts": [0, 0]} if job else {})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if queue is not None:
        Path("squeue").write_text(f"#!/bin/sh\necho '{queue}'\n")
        Path("squeue").chmod(0o755)
        monkeypatch.setenv("PATH", f"{Path.cwd()}:{os.environ['PATH']}")
    expected = AutoResume([*TINY, "--ckpt_path", str(RUN)] if is_taken else TINY)
    assert AutoResume.of([*TINY, *AUTO]) == expected


def change_to_training_elsewhere(run: Path, seconds: float = 0.0, **process: Any) -> None:
    """Record that a run is being trained on another host, and wrote its last heartbeat some seconds ago."""
    heartbeat = datetime.now(UTC) - timedelta(seconds=seconds)
    elsewhere = {"host": "node7", "pid": 1, "began": 1.0, **process}
    change_record(run, status="running", heartbeat=heartbeat.isoformat(), process=elsewhere)


def test_a_restarted_job_takes_its_run_although_the_node_that_trained_it_has_just_died(
    trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    change_to_training_elsewhere(RUN, job="slurm 70", restarts=[0, 0])
    monkeypatch.setenv("SLURM_JOB_ID", "70")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    resumed = AutoResume.of([*TINY, *AUTO])
    assert resumed
    assert str(RUN) in resumed.options


def test_a_run_killed_on_another_host_is_resumed_once_its_heartbeat_is_late(
    trained: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained(*TINY)
    change_to_training_elsewhere(RUN, seconds=50)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        monkeypatch.setattr("kindling.runs.process.HEARTBEAT_TIMEOUT", 180 - 65 * len(waits))

    monkeypatch.setattr("kindling.cli.auto_resume.sleep", wait)
    assert AutoResume.of([*TINY, *AUTO]) == AutoResume([*TINY, "--ckpt_path", str(RUN)])
    assert len(waits) == 2
    line = f"{RUN} may still be training on node7 (last heartbeat 50 s ago): waiting for its next one\n"
    assert capfd.readouterr().err == line


def test_a_run_that_is_training_on_another_host_is_not_taken(
    trained: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained(*TINY)
    change_to_training_elsewhere(RUN, seconds=20)
    monkeypatch.setattr("kindling.cli.auto_resume.sleep", lambda _: change_to_training_elsewhere(RUN))
    assert AutoResume.of([*TINY, *AUTO]) == AutoResume(TINY)
    assert f"{RUN} is still training on node7: it is not resumed here" in capfd.readouterr().err


def test_a_run_without_a_sign_of_life_for_three_minutes_is_resumed_at_once(trained: Train) -> None:
    trained(*TINY)
    change_to_training_elsewhere(RUN, seconds=181)
    assert AutoResume.of([*TINY, *AUTO]) == AutoResume([*TINY, "--ckpt_path", str(RUN)])


def test_help_does_not_wait_for_another_host(trained: Train) -> None:
    trained(*TINY)
    change_to_training_elsewhere(RUN)
    assert AutoResume.of([*TINY, *AUTO, "--help"]) == AutoResume([*TINY, "--help"])


@pytest.mark.slow
def test_processes_of_a_launcher_resume_the_same_run() -> None:
    command = ["fit", *TINY, *AUTO, *signal_at(3)]
    for codes in ([1, 1], [0, 0], [0, 0]):
        assert [result.code for result in Ranks(*command).wait()] == codes
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert len(RunMetadata.read(RUN).commands) == 2


def environment_of(launcher: str, rank: int, port: int) -> dict[str, str]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if launcher == "srun":
        names = slurm_environment(rank, 3, str(port - 15000))  # Lightning derives the port from the ID of the job
        return {name: str(value) for name, value in names.items()}
    if launcher == "one process on each node":
        return place | {"NODE_RANK": str(rank)}
    if launcher == "a cluster":
        return place | {"WORLD_SIZE": "3", "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    store = {"TORCHELASTIC_USE_AGENT_STORE": str(launcher == "torchrun")}
    return place | store | {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "3", "RANK": str(rank)}


def decide_as(rank: int, environment: dict[str, str], fails: bool, decisions: Any) -> None:
    """Put a decision into a queue, and go on as training does."""
    os.environ.update(environment)

    def decide() -> str:
        if fails:
            raise ValueError("no such run")
        return f"rank {rank}"

    try:
        decisions.put((rank, decide_once(decide)))
        time.sleep(60)
    except (ValueError, OSError) as error:
        decisions.put((rank, str(error)))


@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
@pytest.mark.parametrize(
    "launcher", ["torchrun", "torchrun without a store", "srun", "a cluster", "one process on each node"]
)
def test_the_first_process_decides_for_those_of_each_launcher(launcher: str, fails: bool) -> None:
    if fails and launcher == "one process on each node":
        pytest.skip("the first process does not know how many others there are, and does not wait for them")
    port, context = free_port(15000, 24999), get_context("fork")
    agent = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False) if launcher == "torchrun" else None
    queue = context.Queue()
    processes = [
        context.Process(target=decide_as, args=(rank, environment_of(launcher, rank, port), fails, queue))
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    try:
        decisions = [decision for _, decision in sorted(queue.get(timeout=20) for _ in processes)]
    finally:
        for process in processes:
            process.kill()
    del agent
    failed = "the first process has failed before training started"
    assert decisions == (["no such run", failed, failed] if fails else ["rank 0"] * 3)


@pytest.mark.parametrize(
    ("command", "value", "message"),
    [
        ("fit", "atuo", "there is no checkpoint atuo: did you mean auto?"),
        ("fit", "elsewhere", "there is no checkpoint elsewhere: give a file, a run folder, best, last or auto"),
        ("test", "auto", "there is no checkpoint auto: give a file, a run folder, best or last"),
    ],
)
def test_a_misspelled_checkpoint_is_named(kindling: Command, command: str, value: str, message: str) -> None:
    options = TINY if command == "fit" else []
    result = kindling(command, *options, "--ckpt_path", value)
    assert (result.code, result.err) == (1, f"kindling: error: {message}\n")
