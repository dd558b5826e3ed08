"""Distributed runs in tests, without the seconds that each process takes to import torch."""

import multiprocessing
import os
import random
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from conftest import Result
from kindling.cli import main

DEVICE = ["--trainer.accelerator", "cpu"]
CPU = [*DEVICE, "--trainer.strategy", "ddp"]


def free_port(first: int = 0, last: int = 0) -> int:
    """Return a port that no process listens on, optionally in a range."""
    for port in random.SystemRandom().sample(range(first, last + 1), 20) if last else (0,):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


class Ranks:
    """The processes of one command, started as a cluster starts them: each is told its rank by its environment.

    They are forked from a server that has imported everything. What each prints is kept in `rank<n>.out` and `.err`.
    """

    def __init__(
        self,
        *arguments: object,
        world_size: int = 2,
        nodes: int = 1,
        options: Sequence[str] = CPU,
        slurm_job: str = "",
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["kindling.cli.lightning_cli", "kindling.data.images.datamodule", "kindling.evaluation.report"]
        )
        port, devices = free_port(), world_size // nodes
        command = [*map(str, arguments), *options, "--trainer.devices", str(devices)]
        self.processes: list[ForkServerProcess] = []
        for rank in range(world_size):
            node, local_rank = divmod(rank, devices)
            if slurm_job:
                environment = slurm_environment(rank, world_size, slurm_job)
            else:
                names = {"LOCAL_RANK": local_rank, "NODE_RANK": node, "WORLD_SIZE": world_size, "MASTER_PORT": port}
                environment = {"MASTER_ADDR": "127.0.0.1", **names}
            kept = {name: os.environ[name] for name in ("PATH", "TORCH_HOME") if name in os.environ}
            environment |= {"OMP_NUM_THREADS": 1, **kept}
            process = context.Process(target=_run, args=(command, Path.cwd(), environment, rank), daemon=False)
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 60) -> list[Result]:
        """Wait for all processes, and fail if one is still running after `timeout` seconds."""
        for process in self.processes:
            process.join(timeout)
        running = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in running:
            self.processes[rank].kill()
        if running:
            pytest.fail(f"ranks {running} have not ended within {timeout:g} s")
        return [
            Result(process.exitcode or 0, Path(f"rank{rank}.out").read_text(), Path(f"rank{rank}.err").read_text())
            for rank, process in enumerate(self.processes)
        ]


def slurm_environment(rank: int, tasks: int, job: str) -> dict[str, object]:
    """Return the environment variables of a task of Slurm."""
    names: dict[str, object] = {
        "SLURM_JOB_ID": job,
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": 1,
        "SLURM_NTASKS": tasks,
    }
    names |= {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0}
    return names


def _run(options: Sequence[str], folder: Path, environment: dict[str, object], rank: int) -> None:
    os.chdir(folder)
    os.environ.update({name: str(value) for name, value in environment.items()})
    for stream, number in (("out", 1), ("err", 2)):
        with Path(f"rank{rank}.{stream}").open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    # Lightning reads the environment when it is imported, and here that was before.
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    sys.argv = ["kindling", *options]
    sys.exit(main(options))
