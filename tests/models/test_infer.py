"""Data that several processes read at the same time before training."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from kindling.models.infer import infer_arguments


class Downloads(LightningDataModule):
    """Fails if two processes prepare its data at the same time."""

    def prepare_data(self) -> None:
        Path("downloading").touch(exist_ok=False)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)"], check=True)
        Path("downloading").unlink()
        with Path("calls").open("a") as file:
            file.write("x")

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl and fork")
def test_processes_prepare_their_data_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name, value in (("MASTER_PORT", "29500"), ("WORLD_SIZE", "5"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    (tmp_path / "temporary").mkdir()
    processes = []
    for _ in range(5):
        if not (process := os.fork()):
            code = 1
            try:
                infer_arguments(Downloads(), ["input_shape"])
                code = 0
            finally:
                os._exit(code)  # else pytest would go on in this process too
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 5
    assert Path("calls").read_text() == "xxxxx"
    assert not any((tmp_path / "temporary").iterdir())
