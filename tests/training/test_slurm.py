"""Jobs of Slurm, with stand-ins for its commands: before a time limit they save, are requeued and resume."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import CONFIGS, LOADING, TINY, Command, Train, different
from fake_slurm import Cluster
from kindling.runs.metadata import RunMetadata
from ranks import Ranks
from soak_compare import differences

RUN = Path("runs/tiny/version_0")
LAST = RUN / "checkpoints/last.ckpt"
LONG = [*TINY, "--model.dropout", "0.3", "--trainer.max_epochs", "4"]  # 7 steps per epoch
AUTO = ["--ckpt_path", "auto"]
USR1 = int(signal.SIGUSR1)
# TensorBoard drops the points of an interrupted session only if its file is a second older than the next one.
IN_ONE_SECOND = ("config.yaml: trainer.callbacks", "train: ", "val: ", "test: ")
NO_CALLBACKS = ["--trainer.callbacks", "null"]


def callback(name: str, **arguments: object) -> dict[str, object]:
    return {"class_path": f"helpers.{name}", "init_args": arguments}


def with_callbacks(*callbacks: dict[str, object]) -> list[str]:
    return ["--trainer.callbacks", json.dumps(callbacks)]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    handler = signal.getsignal(signal.SIGINT)
    yield Cluster(tmp_path_factory.mktemp("cluster"), monkeypatch)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it after an interruption before the first step


@pytest.fixture
def job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Let this process be the only task of a job."""
    names = {"JOB_ID": cluster.job, "JOB_NAME": "tiny", "NNODES": "1", "NTASKS": "1", "NTASKS_PER_NODE": "1"}
    for name, value in (names | {"PROCID": "0", "LOCALID": "0", "NODEID": "0", "NODELIST": "127.0.0.1"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return cluster


def unlike(straight: Path, known: tuple[str, ...]) -> list[str]:
    return [line for line in differences(straight, RUN) if not line.startswith(known)]


@pytest.mark.slow
def test_a_job_requeued_three_times_ends_like_a_run_that_was_never_interrupted(
    kindling: Command, trained: Train, job: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first step, in the last one of an epoch, and in the middle of one."""
    trained(*LONG)
    RUN.rename("straight")
    command = [
        "fit",
        *LONG,
        *AUTO,
        *with_callbacks(*(callback("SignalAt", step=step, number=USR1) for step in (0, 13, 16))),
    ]
    for restarts, step in enumerate((1, 14, 17), start=1):
        stopped = kindling(*command)
        assert (stopped.code, stopped.err) == (143, "kindling: interrupted\n")
        assert stopped.out.endswith(f"requeueing job {job.job}\n")
        assert job.lines("scontrol") == [f"requeue {job.job}"] * restarts
        assert RunMetadata.read(RUN).status == "stopped"
        assert torch.load(LAST, weights_only=True)["global_step"] == step
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    assert kindling(*command).code == 0
    assert unlike(Path("straight"), IN_ONE_SECOND) == []
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert len(job.lines("scontrol")) == 3


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [
        (callback("SignalInTest", number=USR1), True),
        (callback("SignalBeforeTraining", number=USR1), False),
        (callback("SignalInValidation", number=USR1, step=7), True),
        (callback("SignalAt", number=USR1, step=13), True),  # the last step
    ],
    ids=["test", "start", "validation", "last step"],
)
def test_a_requeued_job_does_what_is_missing(
    kindling: Command, trained: Train, job: Cluster, sent: dict[str, object], is_kept: bool
) -> None:
    trained(*TINY)
    RUN.rename("straight")
    stopped = kindling("fit", *TINY, *AUTO, *with_callbacks(sent))
    assert (stopped.code, job.lines("scontrol")) == (143, [f"requeue {job.job}"])
    assert RUN.exists() == is_kept
    assert kindling("fit", *TINY, *AUTO, *NO_CALLBACKS).code == 0
    assert RunMetadata.read(RUN).tested
    known = (*IN_ONE_SECOND, "run.json: modified") if is_kept else IN_ONE_SECOND  # other callbacks
    assert unlike(Path("straight"), known) == []


def test_a_signal_while_pytorch_is_imported_requeues_the_job(
    kindling: Command, job: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kindling.cli.entry_point._find", lambda _: signal.raise_signal(signal.SIGUSR1))
    stopped = kindling("fit", *TINY, *AUTO)
    assert (stopped.code, stopped.err) == (143, "kindling: error: interrupted during start-up\n")
    assert job.lines("scontrol") == [f"requeue {job.job}"]


@pytest.mark.slow
def test_a_loader_that_cannot_resume_within_an_epoch_repeats_it(kindling: Command, job: Cluster) -> None:
    options = "--model modules.Segmentation --model.num_classes 3 --data modules.ShapesDataModule".split()
    options += ["--trainer.max_epochs", "3", "--early_stopping.monitor", "val_loss", "--checkpoint.monitor", "val_loss"]
    assert kindling("fit", *options, "--run_name", "straight").code == 0
    straight = Path("runs/straight/version_0/checkpoints/last.ckpt")
    steps = torch.load(straight, weights_only=True)["global_step"]
    command = ["fit", *options, "--run_name", "tiny", *AUTO]
    for step in (1, steps // 3 + 1):  # before there is a checkpoint, and in the second epoch
        stopped = kindling(*command, *with_callbacks(callback("SignalAt", number=USR1, step=step)))
        assert (stopped.code, "will start over: DataLoader can't resume within an epoch" in stopped.err) == (143, True)
    assert kindling(*command, *NO_CALLBACKS).code == 0
    assert different(straight, LAST) == []
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert len(job.lines("scontrol")) == 2


@pytest.mark.parametrize(
    ("options", "number", "message"),
    [
        ([], USR1, "is not requeued: only fit --ckpt_path auto would continue\n"),
        (AUTO, int(signal.SIGTERM), "kindling: interrupted\n"),  # as for scancel
    ],
    ids=["not auto", "canceled"],
)
def test_a_job_is_not_requeued_in_vain(
    kindling: Command, job: Cluster, options: list[str], number: int, message: str
) -> None:
    stopped = kindling("fit", *LONG, *options, *with_callbacks(callback("SignalAt", step=3, number=number)))
    assert (stopped.code, job.lines("scontrol")) == (143, [])
    assert stopped.err.endswith(message)
    assert torch.load(LAST, weights_only=True)["global_step"] == 4


def test_only_the_task_of_an_array_is_requeued(
    kindling: Command, job: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last task has the ID of the whole array in SLURM_JOB_ID."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", job.job)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    stopped = kindling("fit", *LONG, *AUTO, *with_callbacks(callback("SignalAt", step=3, number=USR1)))
    assert (stopped.code, job.lines("scontrol")) == (143, [f"requeue {job.job}_3"])


def test_a_job_that_cannot_be_requeued_says_why(kindling: Command, job: Cluster) -> None:
    (job.commands / "scontrol").write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2; exit 1\n")
    stopped = kindling("fit", *LONG, *AUTO, *with_callbacks(callback("SignalAt", step=3, number=USR1)))
    reason = f"kindling: error: can't requeue job {job.job}: Requested operation is presently disabled\n"
    assert (stopped.code, stopped.err.endswith(reason)) == (143, True)
    assert f"fit --ckpt_path {RUN}" in stopped.out


def test_outside_of_slurm_the_signal_saves_and_stops(kindling: Command, cluster: Cluster) -> None:
    stopped = kindling("fit", *LONG, *AUTO, *with_callbacks(callback("SignalAt", step=3, number=USR1)))
    assert (stopped.code, stopped.err, cluster.lines("scontrol")) == (143, "kindling: interrupted\n", [])
    assert torch.load(LAST, weights_only=True)["global_step"] == 4


def test_a_second_signal_stops_at_once(kindling: Command, job: Cluster) -> None:
    twice = [callback("SignalAt", step=9, number=number) for number in (USR1, int(signal.SIGTERM))]
    stopped = kindling("fit", *LONG, *AUTO, *with_callbacks(*twice))
    assert (stopped.code, job.lines("scontrol")) == (143, [])
    assert torch.load(LAST, weights_only=True)["global_step"] == 7
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_job_with_more_tasks_than_devices_is_refused(
    kindling: Command, job: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    result = kindling("fit", *TINY)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "this job has 2 tasks, but 1 would train: set --trainer.devices 2" in result.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("number", "rank", "codes"), [(signal.SIGUSR1, 1, [143, 0]), (signal.SIGTERM, 0, [143, 143])], ids=["USR1", "TERM"]
)
@pytest.mark.slow
def test_all_tasks_stop_after_the_same_step_and_one_requeues_the_job(
    cluster: Cluster, number: int, rank: int, codes: list[int]
) -> None:
    command = ["fit", *LONG, *AUTO, *with_callbacks(callback("SignalAt", step=3, number=int(number), rank=rank))]
    assert [result.code for result in Ranks(*command, slurm_job=cluster.job).wait()] == codes
    assert torch.load(LAST, weights_only=True)["global_step"] == 4
    assert cluster.lines("scontrol") == [f"requeue {cluster.job}"] * (number == signal.SIGUSR1)


def test_the_script_of_the_repository_is_that_of_projects() -> None:
    ours, theirs = (CONFIGS.parent / name for name in ("scripts/slurm.sh", "template/scripts/slurm.sh.jinja"))
    assert theirs.read_text().replace("{{ command }}", "kindling").replace("baseline", "quickstart") == ours.read_text()
    assert os.access(ours, os.X_OK)


@pytest.mark.slow
def test_two_tasks_requeued_three_times_by_the_script_end_like_a_run_that_was_never_interrupted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a data-loading process, which gets the signals too."""
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/kindling").write_text(f'#!/bin/sh\nexec {sys.executable} -m kindling "$@"\n')
    Path(".venv/bin/kindling").chmod(0o755)
    for name, value in {"TASKS": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}.items():
        monkeypatch.setenv(name, value)
    script, cpu = CONFIGS.parent / "scripts/slurm.sh", ["--trainer.accelerator", "cpu", "--data.num_workers", "1"]
    for steps in ([], [2, 6, 13]):
        limits = with_callbacks(callback("TimeLimit", steps=steps))
        submitted = subprocess.run(
            ["sbatch", script, *LONG, *cpu, *limits], capture_output=True, text=True, timeout=300
        )
        log = Path(f"slurm-{cluster.job}.log")
        assert (submitted.returncode, submitted.stderr) == (0, ""), log.read_text()
        if not steps:
            assert cluster.lines("codes") == ["0"], log.read_text()
            RUN.rename("straight")
            (cluster.folder / "codes").unlink()
            log.unlink()
    assert cluster.lines("codes") == ["143", "143", "143", "0"], log.read_text()
    assert cluster.lines("scontrol") == [f"requeue {cluster.job}"] * 3
    assert unlike(Path("straight"), ("config.yaml: trainer.callbacks",)) == []
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    said = log.read_text().replace(LOADING, "")
    assert len(re.findall("^srun: 143 0$|^srun: 143 143$", said, re.MULTILINE)) == 3
    assert said.count(f"requeueing job {cluster.job}\n") == 3
    assert "Traceback" not in said
