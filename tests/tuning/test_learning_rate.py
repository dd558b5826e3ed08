import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.image import imread

from conftest import TINY, Command, Train
from kindling import CNNClassifier, MLPClassifier, MNISTDataModule, SyntheticDataModule, find_lr
from kindling.tuning.learning_rate import LRSweep, valley_lr
from kindling.tuning.short_fit import clone_model, short_fit

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def test_find_lr_plots_and_prints_without_training(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--find_lr")
    assert (result.code, result.err) == (0, "")
    assert [str(path) for path in Path("runs").rglob("*") if path.is_file()] == [str(Path("runs/tiny/lr_finder.png"))]
    assert imread("runs/tiny/lr_finder.png").shape[1] >= 1000
    said, picture, _, command = result.out.splitlines()[-4:]  # after the progress, if it is slow
    assert said.startswith("learning rate: ")
    assert picture == f"plot: {Path('runs/tiny/lr_finder.png')}"
    typed = shlex.split(command)
    assert typed[-2:] == ["--model.optimizer.lr", said.split()[2].rstrip(",")]
    assert "--find_lr" not in typed
    assert kindling(*typed[typed.index("fit") :]).code == 0


def test_the_suggested_command_keeps_values_that_are_names_of_diagnostics(kindling: Command) -> None:
    result = kindling("fit", *TINY[:-2], "--run_name", "overfit", "--find_lr")
    assert shlex.split(result.out.splitlines()[-1])[-4:-2] == ["--run_name", "overfit"]


@pytest.mark.slow
def test_a_rate_for_a_typed_schedule_is_its_peak_too(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--find_lr", "--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr=1")
    command = shlex.split(result.out.splitlines()[-1])
    assert command[-2] == "--model.lr_scheduler.max_lr"
    assert command[-1] == command[-3]


@pytest.mark.slow
def test_a_schedule_with_its_own_rates_gets_a_hint(kindling: Command) -> None:
    schedule = {"class_path": "CyclicLR", "init_args": {"base_lr": 0.001, "max_lr": 0.1}}
    result = kindling(
        "fit", *TINY, "--model.optimizer", "SGD", "--find_lr", "--model.lr_scheduler", json.dumps(schedule)
    )
    assert "a quarter of the rate with the lowest loss" in result.out
    assert result.out.splitlines()[-1].startswith(
        "CyclicLR has its own learning rates: set --model.lr_scheduler.base_lr"
    )


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("wish", ["--find_lr", "--overfit"])
def test_find_lr_works_on_a_finished_run(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    trained(*TINY)
    monkeypatch.setattr("kindling.utils.console.PROGRESS_DELAY", 0.0)
    result = kindling("fit", "--ckpt_path", "runs/tiny", wish)
    assert "epochs: ask for more" not in result.err
    assert (result.code, result.err) == (0, "")
    assert {"--find_lr": "trying learning rates ...", "--overfit": "overfitting one batch ..."}[wish] in result.out
    if wish == "--find_lr":
        typed = shlex.split(result.out.splitlines()[-1])
        assert kindling(*typed[typed.index("fit") :]).code == 0


class Steps(Callback):
    """Records the ratio of each SGD step to its gradient: the learning rate that was actually used."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        weight = pl_module.get_parameter("network.1.weight")
        assert weight.grad is not None
        self.before, self.gradient = weight.detach().clone(), weight.grad.clone()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        moved = self.before - pl_module.get_parameter("network.1.weight").detach()
        self.rates.append((moved.norm() / self.gradient.norm()).item())


def test_the_rates_are_those_of_the_actual_steps() -> None:
    data = SyntheticDataModule(num_samples=300)
    model = MLPClassifier.for_data(data, hidden=(8,), optimizer=SGD, warmup_epochs=5)
    sweep, steps = LRSweep(1e-2, 1.0, 20), Steps()
    short_fit(clone_model(model), data, 20, [sweep, steps], "trying learning rates", accelerator="cpu")
    assert steps.rates == pytest.approx(np.geomspace(1e-2, 1.0, 20).tolist(), rel=1e-3)


def test_model_and_random_state_are_unchanged(folder: Path) -> None:
    data = SyntheticDataModule(num_samples=300)
    model = MLPClassifier.for_data(data, hidden=(8,), batch_norm=True, dropout=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    find_lr(model, data, accelerator="cpu")
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert model.training_options["lr_scheduler"] is None
    assert [path.name for path in folder.iterdir()] == ["configs"]


@pytest.mark.slow
def test_the_suggestion_is_close_to_the_tuned_rate() -> None:
    data = MNISTDataModule(source="sample", batch_size=64)
    schedule = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 1.0}}
    found = find_lr(CNNClassifier.for_data(data, label_smoothing=0.05, lr_scheduler=schedule), data, accelerator="cpu")
    assert found.lr == pytest.approx(6e-3, rel=0.7)  # as in quickstart.yaml
    assert found.peaked


def test_the_valley_is_the_middle_of_the_lowest_losses() -> None:
    rates = np.geomspace(1e-4, 1, 5)
    assert valley_lr(rates, np.array([2.0, 1.0, 1.0, 1.0, 5.0])) == pytest.approx(1e-2)
    assert valley_lr(rates, np.array([2.0, 1.5, 1.0, 1.0, 5.0])) == pytest.approx(10**-1.5)


@pytest.mark.slow
def test_no_rate_is_suggested_if_the_loss_does_not_fall(kindling: Command) -> None:
    result = kindling("fit", "--model", "helpers.SigmoidClassifier", *TINY[4:], "--find_lr")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "no learning rate reduces the loss: see runs" in result.err
    assert Path("runs/tiny/lr_finder.png").exists()


def test_a_loss_that_is_never_finite_is_reported(kindling: Command) -> None:
    result = kindling("fit", "--model", "MLPClassifier", "--data", "helpers.BrokenDataModule", "--find_lr")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "check the data" in result.err
    assert not Path("runs").exists()


def test_an_ensemble_has_no_rate_to_find(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    members = ["--model", "EnsembleClassifier", "--model.checkpoints", json.dumps(["runs/tiny"]), *TINY[4:]]
    result = kindling("fit", *members, "--find_lr")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "EnsembleClassifier has nothing to train" in result.err
