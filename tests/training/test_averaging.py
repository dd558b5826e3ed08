import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from conftest import TINY, Command, different
from kindling import MLPClassifier, SyntheticDataModule, load
from kindling.training import EMA, SWA, Averaging

RUN = Path("runs/tiny/version_0")
LONG = [*TINY, "--trainer.max_epochs", "4", "--model.batch_norm", "true", "--model.optimizer.lr", "0.02"]
EMA_OPTIONS = ["--averaging", "EMA", "--averaging.decay", "0.9"]
SWA_OPTIONS = ["--averaging", "SWA", "--averaging.start_epoch", "1"]
USERS = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
pytestmark = pytest.mark.usefixtures("shown_warnings")


class Raw(Callback):
    """Collects the raw weights after each step, and the steps that end an epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.ends: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        if trainer.is_last_batch:
            self.ends.append(len(self.states) - 1)


def averaged(averaging: Averaging) -> tuple[Raw, dict[str, Tensor]]:
    data = SyntheticDataModule(num_samples=300, batch_size=32)
    model, raw = MLPClassifier.for_data(data, hidden=(8,), batch_norm=True), Raw()
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=3, callbacks=[raw, averaging], **options)
    trainer.fit(model, data)
    return raw, model.state_dict()


def test_ema_is_the_average_that_its_formula_gives() -> None:
    raw, found = averaged(EMA(decay=0.9))
    for name, value in found.items():
        expected = raw.states[0][name].double()
        for number, state in enumerate(raw.states[1:], start=1):
            decay = min(0.9, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * state[name].double()
        if not value.is_floating_point():  # number of batches counted by batch norm
            expected = raw.states[-1][name]
        torch.testing.assert_close(value, expected.to(value.dtype), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_swa_is_the_mean_of_the_ends_of_epochs(start: int) -> None:
    raw, found = averaged(SWA(start_epoch=start))
    for name, value in found.items():
        ends = [raw.states[step][name] for step in raw.ends[start:]]
        expected = torch.stack(ends).double().mean(dim=0) if value.is_floating_point() else ends[-1]
        torch.testing.assert_close(value, expected.to(value.dtype), rtol=1e-4, atol=1e-6)


def test_constant_weights_stay_bit_identical() -> None:
    raw, found = averaged(EMA(decay=0.9))
    for name in ("mean", "std"):
        assert torch.equal(found[name], raw.states[0][name])


@pytest.mark.parametrize("start", [0, 5])
def test_before_swa_starts_the_raw_weights_are_used(start: int) -> None:
    raw, found = averaged(SWA(start_epoch=start))
    same = all(torch.equal(found[name], raw.states[-1][name]) for name in found)
    assert same == (start == 5)


def stored(name: str, run: Path = RUN) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return checkpoint


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("options", [EMA_OPTIONS, SWA_OPTIONS, USERS], ids=["EMA", "SWA", "user's"])
def test_fit_test_validate_and_load_use_the_same_averaged_weights(kindling: Command, options: list[str]) -> None:
    result = kindling("fit", *LONG, *options)
    assert (result.code, result.err) == (0, "")
    best = stored("best")
    assert str(best["state_dict"]) != str(best["current_model_state"])
    files = [RUN / "test_metrics.json", RUN / "predictions.csv"]
    first = [file.read_bytes() for file in files]
    result = kindling("test", "--ckpt_path", "best")
    assert (result.code, result.err) == (0, "")
    assert [file.read_bytes() for file in files] == first
    with (RUN / "metrics.csv").open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert f"{min(losses):.4f}" in kindling("validate", "--ckpt_path", "best").out
    data = SyntheticDataModule(num_samples=300)
    data.setup("test")
    predicted = load("best").predict(data.test.inputs)
    with (RUN / "predictions.csv").open(newline="") as file:
        written = [float(row["probability"]) for row in csv.DictReader(file)]
    assert predicted.probabilities.max(axis=1).tolist() == pytest.approx(written, abs=1e-5)


EXACT = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("options", [EMA_OPTIONS, SWA_OPTIONS, USERS], ids=["EMA", "SWA", "user's"])
def test_a_run_with_averaged_weights_resumes_exactly(kindling: Command, options: list[str]) -> None:
    kindling("fit", *LONG, *options)
    stop = {"class_path": "helpers.SignalAt", "init_args": {"step": 16}}
    assert kindling("fit", *LONG, *options, f"--trainer.callbacks+={json.dumps(stop)}").code == 1
    interrupted = Path("runs/tiny/version_1")
    assert kindling("fit", "--ckpt_path", interrupted).code == 0
    assert kindling("fit", *LONG, *options, "--trainer.max_epochs", "2").code == 0
    longer = Path("runs/tiny/version_2")
    assert kindling("fit", "--ckpt_path", longer, "--trainer.max_epochs", "4").code == 0
    for run in (interrupted, longer):
        for name in ("best", "last"):
            ours, theirs = stored(name), stored(name, run)
            assert str([ours[key] for key in EXACT]) == str([theirs[key] for key in EXACT])
            assert different(RUN / f"checkpoints/{name}.ckpt", run / f"checkpoints/{name}.ckpt") == []
            for weight, value in ours["current_model_state"].items():
                assert torch.equal(value, theirs["current_model_state"][weight])


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("options", [EMA_OPTIONS, ["--averaging", "SWA"], USERS], ids=["EMA", "SWA", "user's"])
def test_plots_at_the_end_show_the_raw_weights_also_when_they_are_drawn_on_resume(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    drawn: list[dict[str, Tensor]] = []

    def draw(_: object, __: Trainer, model: LightningModule) -> None:
        drawn.append({name: value.clone() for name, value in model.state_dict().items()})
        if len(drawn) == 1:
            raise SystemExit(9)  # as a kill does, between the last epoch and the test

    monkeypatch.setattr("kindling.training.training_plots.PlotTrainingHistory.on_train_end", draw)
    assert kindling("fit", *TINY, *options).code == 9
    assert kindling("fit", "--ckpt_path", RUN, "--test_after_fit", "false").code == 0
    last = stored("last")
    for name, raw in last["current_model_state"].items():
        assert torch.equal(drawn[0][name], raw)
        assert torch.equal(drawn[-1][name], raw)
    assert any(not torch.equal(drawn[-1][name], average) for name, average in last["state_dict"].items())


@pytest.mark.slow
def test_without_checkpoints_the_averaged_weights_are_tested(kindling: Command) -> None:
    kindling("fit", *LONG, *EMA_OPTIONS, "--trainer.limit_val_batches", "0")
    kindling("fit", *LONG, *EMA_OPTIONS, "--trainer.enable_checkpointing", "false")
    figures = [(run / "test_metrics.json").read_text() for run in sorted(Path("runs/tiny").iterdir())]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--averaging", "EMA", "--averaging.decay", "1"], "averaging.decay"),
        (["--averaging", "SWA", "--averaging.start_epoch", "-1"], "averaging.start_epoch"),
        ([*EMA_OPTIONS, *USERS], "EMA and EMAWeightAveraging"),
        (["--averaging", "EMAA"], "did you mean EMA"),
    ],
)
def test_invalid_averaging_options_are_refused(kindling: Command, options: list[str], words: str) -> None:
    result = kindling("fit", *TINY, *options)
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert words in result.err
    assert not Path("runs").exists()
