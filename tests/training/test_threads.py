"""The processes of a run share the cores of their machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import torch

from kindling.training.threads import share_cores


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that there are 12 cores, and restore the number of threads."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("processes", "expected"), [(2, 6), (5, 2), (24, 1)])
@pytest.mark.usefixtures("console_logs")
def test_each_process_has_its_share(processes: int, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    share_cores(processes)
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (expected, str(expected))
    share_cores(processes)  # for the test after `fit`
    printed = capsys.readouterr().err
    assert printed.startswith(f"{expected} thread{'s' * (expected > 1)} in each of {processes} processes")
    assert printed.count("\n") == 1


def test_a_task_that_slurm_has_bound_to_its_cores_uses_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    share_cores(4)
    assert torch.get_num_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)  # the cores of all tasks
    share_cores(4)
    assert os.environ["OMP_NUM_THREADS"] == "3"  # of 12 cores


def test_a_single_process_and_a_chosen_number_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    share_cores(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    share_cores(2)
    assert torch.get_num_threads() == before


def test_commands_that_run_at_the_same_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINDLING_JOBS", "3")
    share_cores()
    assert torch.get_num_threads() == 4
    share_cores(2)  # as soon as one of them starts further processes
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")


@pytest.mark.parametrize("chosen", [True, False])
def test_the_single_thread_of_torchrun_is_no_choice_of_the_user(monkeypatch: pytest.MonkeyPatch, chosen: bool) -> None:
    """Torchrun sets OMP_NUM_THREADS=1 unless it is set where torchrun is started."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": "1"} if chosen else {}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as torchrun:
        monkeypatch.setattr(os, "getppid", lambda: torchrun.pid)
        while not psutil.Process(torchrun.pid).environ():  # it has not started yet
            time.sleep(0.01)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        share_cores(2)
        torchrun.communicate(b"\n")
    assert os.environ["OMP_NUM_THREADS"] == ("1" if chosen else "6")
