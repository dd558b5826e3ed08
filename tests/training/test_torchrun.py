"""Runs that torchrun starts, on one machine and on two."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import TINY, different

RUN = Path("runs/tiny/version_0")
LAST = RUN / "checkpoints/last.ckpt"
FIT = ["fit", *TINY, *"--data.batch_size 64 --model.dropout 0.3 --trainer.max_epochs 3 --test_after_fit false".split()]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def torchrun(*options: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, options), "-m", "kindling"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


def kill_at(step: int, rank: int) -> list[str]:
    return [
        "--trainer.callbacks",
        f'[{{"class_path": "helpers.SignalAt", "init_args": {{"step": {step}, "number": 9, "rank": {rank}}}}}]',
    ]


def errors(stderr: str) -> list[str]:
    """Return the lines of Kindling; torchrun adds its own."""
    assert "kindling/" not in stderr.replace("lib/python", "")  # no traceback
    return [line for line in stderr.splitlines() if line.startswith("kindling: ")]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_a_killed_process_ends_the_others_and_the_run_resumes(rank: int) -> None:
    command = torchrun("--standalone", "--nproc-per-node", 2)
    killed = run([*command, *FIT, *kill_at(6, rank)])
    assert time.time() - LAST.stat().st_mtime < 30  # it was saved a few steps earlier
    (line,) = errors(killed.stderr)
    assert line.startswith(f"kindling: error: process {rank + 1} of 2 was killed or has crashed (PID ")
    assert killed.returncode == 1
    resumed = run([*command, "fit", "--ckpt_path", str(RUN), "--trainer.callbacks", "null"])
    assert (resumed.returncode, errors(resumed.stderr)) == (0, [])
    assert run([*command, *FIT, "--run_name", "whole"]).returncode == 0
    assert different(LAST, "runs/whole/version_0/checkpoints/last.ckpt") == []


@pytest.mark.slow
def test_torchrun_restarts_a_job_whose_process_is_killed() -> None:
    """The process is killed once: the callback finds the file that it has written."""
    once = '[{"class_path": "helpers.KillOnce", "init_args": {"step": 6, "rank": 1}}]'
    command = torchrun("--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    restarted = run([*command, *FIT, "--trainer.callbacks", once, "--ckpt_path", "auto"])
    assert restarted.returncode == 0, restarted.stderr
    assert Path("killed").exists()
    assert [str(path) for path in Path("runs").glob("*/*")] == [str(RUN)]
    assert run([*command, *FIT, "--run_name", "whole"]).returncode == 0
    assert different(LAST, "runs/whole/version_0/checkpoints/last.ckpt") == []


@pytest.fixture
def machines() -> Iterator[list[list[str]]]:
    """Make two network namespaces with a cable between them, and return the beginnings of commands that run there."""
    if not shutil.which("ip") or os.getuid() != 0:
        pytest.skip("network namespaces need ip (iproute2) and root")
    names = [f"kindling-{os.getpid()}-{number}" for number in range(2)]
    try:
        made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"network namespaces are not allowed: {made.stderr.strip()}")
        subprocess.run(["ip", "netns", "add", names[1]], check=True)
        ends = ["type", "veth", "peer", "name", "cable", "netns", names[1]]
        subprocess.run(["ip", "-n", names[0], "link", "add", "cable", *ends], check=True)
        for number, name in enumerate(names):
            subprocess.run(["ip", "-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "cable"], check=True)
            for link in ("cable", "lo"):
                subprocess.run(["ip", "-n", name, "link", "set", link, "up"], check=True)
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_machines_train_one_run(machines: list[list[str]]) -> None:
    def train(*options: object) -> list[subprocess.Popen[str]]:
        place = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "10.77.0.1", "--master-port", 29411]
        return [
            subprocess.Popen(
                [*machine, *torchrun(*place, "--node-rank", number), *map(str, options)],
                env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "cable"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, machine in enumerate(machines)
        ]

    killed = [(*process.communicate(timeout=120), process.returncode) for process in train(*FIT, *kill_at(6, 1))]
    (line,) = [line for _, stderr, _ in killed for line in errors(stderr)]
    assert line.startswith("kindling: error: process 2 of 2 was killed or has crashed (PID ")
    assert all(code != 0 for *_, code in killed)
    resumed = train("fit", "--ckpt_path", RUN, "--trainer.callbacks", "null")
    ended = [(*process.communicate(timeout=120), process.returncode) for process in resumed]
    assert [code for *_, code in ended] == [0, 0], ended
    assert [str(path) for path in Path("runs").glob("*/*")] == [str(RUN)]
