import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from conftest import TINY, Command
from kindling import SyntheticDataModule

RUN = Path("runs/tiny/version_0")
PARTS = (
    "load a batch",
    "to the device, augment",
    "forward, loss, metrics",
    "backward",
    "optimizer",
    "validation",
    "callbacks, logging, checkpoints",
    "the training loop itself",
)


@pytest.mark.slow
def test_profile_prints_the_time_per_part_of_an_epoch(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--profile")
    assert result.code == 0
    table = (RUN / "profile.txt").read_text(encoding="utf-8")
    assert all(line.strip() in result.out for line in table.splitlines())
    assert "2 epochs of 7 batches" in table
    rows = dict(re.findall(r"│ ([a-z ,]+?) +│ +([\d.]+ │ +\d+% │ +[\d.]+) │", table))
    assert rows.keys() == {*PARTS, "all"}
    milliseconds = {part: float(row.split("│")[-1]) for part, row in rows.items()}
    total = milliseconds.pop("all")
    assert sum(milliseconds.values()) == pytest.approx(total, abs=0.05)
    for part in ("forward, loss, metrics", "backward", "optimizer", "validation"):
        assert 0 < milliseconds[part] < total


@pytest.mark.slow
def test_profile_writes_a_trace_of_operators_and_parts(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--trainer.max_epochs", "1", "--data.batch_size", "16", "--profile")
    assert str(RUN / "profile.pt.trace.json") in result.out
    events = json.loads((RUN / "profile.pt.trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert "aten::linear" in names
    for phase in ("training_step", "backward", "optimizer_step"):
        assert sum(name.endswith(phase) for name in names) >= 5


class Slow(Callback):
    """A callback that takes time in the most deeply nested hooks."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(0.005)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(0.05)


@pytest.mark.alone
def test_each_second_is_counted_once(kindling: Command) -> None:
    options = ["--trainer.accumulate_grad_batches", "3", "--trainer.callbacks", f"{__name__}.Slow", "--profile"]
    assert kindling("fit", *TINY, *options).code == 0
    table = (RUN / "profile.txt").read_text(encoding="utf-8")
    rows = re.findall(r"│ ([a-z ,]+?) +│ +[\d.]+ │ +\d+% │ +(-?[\d.]+) │", table)
    milliseconds = {part: float(value) for part, value in rows}
    assert milliseconds.keys() == {*PARTS, "all"}
    assert all(value >= 0 for value in milliseconds.values())
    assert milliseconds["callbacks, logging, checkpoints"] >= 5 + 50 / 7
    assert milliseconds["backward"] < 5 > milliseconds["optimizer"]


class SlowToAugment(SyntheticDataModule):
    """Takes time after each batch is on the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        time.sleep(0.005)
        return super().on_after_batch_transfer(batch, dataloader_idx)


@pytest.mark.slow
def test_augmentation_has_its_own_row(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--data", f"{__name__}.SlowToAugment", "--profile").code == 0
    table = (RUN / "profile.txt").read_text(encoding="utf-8")
    found = re.search(r"│ to the device, augment +│ +[\d.]+ │ +\d+% │ +([\d.]+) │", table)
    assert found
    assert float(found[1]) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--profile"], ["--trainer.profiler", "pytorch"]], ids=["ours", "Lightning's"])
def test_profiling_prints_no_messages_of_torch(option: list[str]) -> None:
    program = "from kindling.cli.entry_point import program; program()"
    command = [sys.executable, "-c", program, "fit", *TINY, *option, "--trainer.accelerator", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    assert [line for line in run.stderr.splitlines() if not line.startswith(("hint: ", "loading "))] == []


@pytest.mark.slow
def test_resuming_a_profiled_run_does_not_profile_again(kindling: Command) -> None:
    kindling("fit", *TINY, "--profile")
    assert yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))["profile"] is False
    again = kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert again.code == 0
    assert "time per epoch" not in again.out


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("batches", [2, 7])
def test_a_run_shorter_than_the_trace_is_profiled(kindling: Command, batches: int) -> None:
    few = ["--trainer.limit_train_batches", batches, "--trainer.max_epochs", "1"]
    result = kindling("fit", *TINY, *few, "--profile")
    assert result.code == 0, result.err
    assert (RUN / "profile.txt").exists()
    assert ("profile.pt.trace.json" in result.out) == (RUN / "profile.pt.trace.json").exists() == (batches == 7)
