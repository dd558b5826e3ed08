"""Faults of the machine: each ends in one line, and saved files stay intact."""

import io
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pandas as pd
import psutil
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from conftest import TINY, Command, different
from kindling.cli.entry_point import describe_error
from kindling.runs.checkpoints import read_checkpoint, save
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.metadata import RunMetadata, status_of, utc_timestamp
from kindling.runs.process import process_info

RUN = Path("runs/tiny/version_0")
LAST = RUN / "checkpoints/last.ckpt"
FULL = OSError(28, "No space left on device")


def check_intact(folder: Path) -> None:
    """Check that all checkpoints in a folder can be read and no temporary file is left."""
    for checkpoint in folder.rglob("*.ckpt"):
        read_checkpoint(checkpoint)
    assert not list(folder.rglob(".*"))


def check_same(run: Path) -> None:
    """Check that a run has the checkpoints and metrics of the first one."""
    for name in ("last", "best"):
        assert different(RUN / f"checkpoints/{name}.ckpt", run / f"checkpoints/{name}.ckpt") == []
    losses = [pd.read_csv(each / "metrics.csv")["val/loss"].dropna().tolist() for each in (RUN, run)]
    assert losses[0] == losses[1]


def fail_at(number: int, function: Callable[..., object], error: OSError) -> Callable[..., object]:
    """Return a function that raises an error from a given call on."""
    calls = iter(range(10**6))

    def call(*arguments: object) -> object:
        if next(calls) >= number:
            raise error
        return function(*arguments)

    return call


def test_a_full_disk_gives_one_error_line_at_every_write(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    short = [*TINY, *"--trainer.max_epochs 1 --data.num_samples 60 --test_after_fit false".split()]
    for number in range(100):
        shutil.rmtree("runs", ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_at(number, os.fsync, FULL))
            result = kindling("fit", *short)
        check_intact(Path("runs"))
        if result.code == 0:
            break
        assert (result.code, result.err.count("\n")) == (1, 1), result.err
        assert f"can't write {RUN}/" in result.err
        assert "No space left on device" in result.err
    assert 6 < number < 30


class FullFile(io.FileIO):
    """A file on a disk that becomes full after some bytes."""

    left = 0

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if size > self.left:
            raise FULL
        self.left -= size
        return super().write(data)  # type: ignore[arg-type]


def test_a_disk_full_while_saving_keeps_the_old_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Path("last.ckpt")
    save({"weights": torch.zeros(3)}, target)
    before, opened = target.read_bytes(), Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r": FullFile(self, "w") if "w" in mode else opened(self, mode))
    for number in range(40):
        monkeypatch.setattr(FullFile, "left", 97 * number)
        with pytest.raises(OSError, match=r"can't write last\.ckpt: No space left on device"):
            save({"weights": torch.arange(1000.0), "more": [torch.ones(3)]}, target)
        assert target.read_bytes() == before
    assert sorted(os.listdir()) == ["configs", "last.ckpt"]


def test_a_killed_worker_is_the_reason_of_an_error_that_follows_from_it() -> None:
    # The signal handler of torch raises wherever the process is, here while an archive is written.
    with pytest.raises(RuntimeError, match="enforce fail") as raised:  # noqa: PT012
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 795072 vs 794964")
    assert describe_error(raised.value).startswith("a data-loading process was killed")


def test_a_disk_full_while_the_test_is_drawn_loses_no_metric(
    kindling: Command, pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(writer: SummaryWriter, points: torch.Tensor, *_: object, tag: str, **__: object) -> NoReturn:
        folder = Path(writer.log_dir, "00014", tag)
        folder.mkdir(parents=True)
        (folder / "tensors.tsv").write_text("0.1\t0.2")
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_embedding", fill)
        result = kindling("fit", *TINY)
    assert result.code == 1
    assert "test/accuracy" in result.out
    assert result.err.startswith(f"kindling: error: can't write to {RUN} (No space left on device): ")
    assert not [*RUN.rglob("tensors.tsv")]
    assert kindling("fit", "--ckpt_path", RUN).code == 0
    assert (RUN / "test_metrics.json").exists()


def test_training_stops_in_one_line_if_the_run_folder_is_deleted(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "kindling.training.training_stats.TrainingStatsMonitor.on_train_epoch_end"
    monkeypatch.setattr(hook, lambda *_: shutil.rmtree(RUN, ignore_errors=True))
    result = kindling("fit", *TINY)
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    assert f"{RUN} was deleted" in result.err
    assert not RUN.exists()


@pytest.mark.slow
def test_a_missing_image_is_named_and_the_run_resumes_once_it_is_back(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(24):
        file = Path(f"images/{'ab'[number % 2]}/{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(file)
    options = (
        "--model MLPClassifier --model.hidden [4] --data ImageFolderDataModule --data.data_dir images "
        "--data.image_size 8 --data.memory_gb 0 --data.cache_gb 0 --data.batch_size 4 --run_name tiny "
        "--trainer.max_epochs 3 --test_after_fit false"
    ).split()
    assert kindling("fit", *options).code == 0
    lost, hidden = Path("images/a/4.png"), Path("lost.png")
    with monkeypatch.context() as patch:
        hook = "kindling.training.training_stats.TrainingStatsMonitor.on_train_epoch_end"
        patch.setattr(hook, lambda *_: lost.exists() and lost.rename(hidden))
        result = kindling("fit", *options)
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    assert f"error: {lost} has disappeared" in result.err
    run = Path("runs/tiny/version_1")
    check_intact(run)
    hidden.rename(lost)
    assert kindling("fit", "--ckpt_path", run).code == 0
    check_same(run)


@pytest.mark.slow
def test_a_run_trains_and_resumes_while_the_clock_runs_backwards(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kindling("fit", *TINY).code == 0
    before, now = time.time(), iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: before - 3600 * next(now))
    for checkpoint in RUN.rglob("*.ckpt"):  # written before the clock was set back by an hour
        os.utime(checkpoint, (before + 3600, before + 3600))
    assert kindling("fit", *TINY).code == 0
    other = Path("runs/tiny/version_1")
    assert find_checkpoint("last") == other / "checkpoints/last.ckpt"
    check_same(other)
    assert kindling("fit", "--ckpt_path", other, "--trainer.max_epochs", "3").code == 0


def test_live_and_dead_runs_are_told_apart_after_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = process_info(Path())
    begin = psutil.Process.create_time
    boot = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot - 7200)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: begin(self) - 7200)
    assert status_of(RunMetadata(status="running", process=process)) == "running"
    assert status_of(RunMetadata(status="running", process=process | {"after_boot": 1.0})) == "failed"
    later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    assert status_of(RunMetadata(status="running", process={"host": "elsewhere"}, heartbeat=later)) == "failed"
    assert (
        status_of(RunMetadata(status="running", process={"host": "elsewhere"}, heartbeat=utc_timestamp())) == "running"
    )
