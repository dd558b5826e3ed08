"""Training statistics, compared with independent formulas."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from conftest import TINY, Command
from kindling import MLPClassifier, SyntheticDataModule
from kindling.training import TrainingStatsMonitor

RUN = Path("runs/tiny/version_0")


def column(name: str, run: Path = RUN) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


class Norms(Callback):
    """Records the gradient norm of each step, computed by torch's gradient clipping."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append(torch.nn.utils.clip_grad_norm_(pl_module.parameters(), torch.inf).item())


def test_the_gradient_norm_is_that_before_clipping() -> None:
    data = SyntheticDataModule(num_samples=300)
    norms = Norms()
    trainer = Trainer(
        max_epochs=2,
        log_every_n_steps=1,
        gradient_clip_val=1e-3,
        logger=CSVLogger(".", "runs", "one"),
        callbacks=[norms, TrainingStatsMonitor()],
        enable_progress_bar=False,
    )
    trainer.fit(MLPClassifier.for_data(data), data)
    assert len(norms.found) > 5
    assert column("gradient_norm", Path("runs/one")) == pytest.approx(norms.found, rel=1e-5)


def test_each_epoch_has_its_metrics_however_short_it_is(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    for name in ("lr", "gradient_norm", "samples_per_second", "memory_gb"):
        assert len(column(name)) == 2, name
    assert min(column("samples_per_second")) > 100
    assert all(0.1 < memory < 50 for memory in column("memory_gb"))


def test_long_epochs_have_step_metrics_at_the_logging_steps(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false", "--trainer.log_every_n_steps", "5").code == 0
    with (RUN / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["lr"]]
    assert steps == list(range(4, 2 * 7, 5))


def test_with_gradient_accumulation_an_epoch_has_fewer_steps_than_batches(kindling: Command) -> None:
    less = ["--trainer.accumulate_grad_batches", "4", "--trainer.log_every_n_steps", "6", "--test_after_fit", "false"]
    assert kindling("fit", *TINY, *less).code == 0
    assert len(column("lr")) == len(column("gradient_norm")) == 2


@pytest.mark.slow
def test_samples_per_second_are_right_after_an_interruption(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", 3).code == 1
    assert kindling("fit", "--ckpt_path", RUN, "--test_after_fit", "false").code == 0
    assert min(column("samples_per_second")) > 100


@pytest.mark.slow
def test_a_truncated_row_does_not_prevent_resuming(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    with (RUN / "metrics.csv").open("a") as file:
        file.write("1,0.5")
    result = kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "3", "--test_after_fit", "false")
    assert result.code == 0, result.err
    assert len(column("samples_per_second")) == 3
