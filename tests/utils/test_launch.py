"""How a process was started is recognized as Lightning recognizes it."""

import os

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from kindling.utils.launch import find_launch

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_PORT": "29500"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("", True, 1)),
        (TORCHRUN, ("torchrun", False, 4)),
        (TORCHRUN | {"RANK": "0"}, ("torchrun", True, 4)),
        (SLURM, ("srun", True, 2)),
        (SLURM | {"SLURM_PROCID": "1"}, ("srun", False, 2)),
        (SLURM | TORCHRUN, ("torchrun", False, 4)),  # started by srun on each node
        (SLURM | {"SLURM_JOB_NAME": "bash"}, ("", True, 1)),  # a shell in a job
        ({"MASTER_PORT": "1", "NODE_RANK": "1"}, ("MASTER_PORT", False, 0)),
        ({"MASTER_PORT": "1", "GROUP_RANK": "0"}, ("MASTER_PORT", True, 0)),
        ({"MASTER_PORT": "1", "NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, ("MASTER_PORT", False, 2)),
        ({"MASTER_PORT": "1"}, ("", True, 1)),
        ({"LOCAL_RANK": "1"}, ("", True, 1)),
    ],
)
def test_a_launcher_is_recognized(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[str, bool, int]
) -> None:
    for name in (*TORCHRUN, *SLURM, "SLURM_JOB_NAME", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: "TORCHELASTIC_RUN_ID" in os.environ)
    assert find_launch() == expected
    assert TorchElasticEnvironment.detect() == (expected[0] == "torchrun")
    if expected[0] != "torchrun":
        assert SLURMEnvironment.detect() == (expected[0] == "srun")
