import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import TINY, Command, weights
from kindling.training import TerminateOnNaN
from kindling.training.terminate_on_nan import NotFiniteError

RUN = Path("runs/tiny/version_0")
SHORT = "--data SyntheticDataModule --data.num_samples 300 --data.batch_size 32 --run_name tiny".split()
TOO_FAST = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e30"]


def test_a_loss_that_diverges_stops_the_run_in_one_line(kindling: Command) -> None:
    result = kindling("fit", *TINY, *TOO_FAST)
    assert (result.code, result.err.count("\n")) == (1, 1)
    # After the first step, weights are 1e28 and activations 1e29; their product overflows.
    assert "the loss is nan in step 2 (epoch 1) at a learning rate of 1e+30: network.3 (Linear)" in result.err
    assert "--model.optimizer.lr or --trainer.gradient_clip_val 1" in result.err


def test_the_reported_learning_rate_includes_the_warm_up(kindling: Command) -> None:
    # With 7 steps per epoch, the warm-up has 70 steps; in the second, the rate is 2/70 of the full one.
    result = kindling("fit", *TINY, *TOO_FAST, "--model.warmup_epochs", "10")
    assert "at a learning rate of 2.86e+28:" in result.err


@pytest.mark.slow
def test_a_diverged_run_keeps_its_checkpoint_and_prints_how_to_resume(kindling: Command) -> None:
    broken = ["--trainer.callbacks", "helpers.NanAt", "--trainer.callbacks.step", "9"]
    result = kindling("fit", *TINY, *broken)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "in step 10 (epoch 2)" in result.err
    assert "2 of the 32 samples contain NaN or Inf; check the data" in result.err
    assert f"stopped; resume with: kindling fit --ckpt_path {RUN}" in result.out.replace(os.sep, "/").replace(
        ".exe", ""
    )
    stored = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 7
    for name in ("last", "best"):
        assert all(weight.isfinite().all() for weight in weights(RUN / f"checkpoints/{name}.ckpt").values())
    assert not list(RUN.rglob(".*"))
    assert kindling("fit", "--ckpt_path", "last", *broken[:2], "--trainer.callbacks.step", "99").code == 0


def test_nan_inputs_are_reported_as_a_fault_of_the_data(kindling: Command) -> None:
    result = kindling("fit", "--model", "MLPClassifier", "--data", "helpers.BrokenDataModule")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "check the data" in result.err
    assert not Path("runs").exists()


def test_weights_that_became_nan_in_the_previous_step_are_reported(kindling: Command) -> None:
    result = kindling("fit", "--model", "helpers.NaNGradientClassifier", *SHORT)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "in step 2" in result.err
    assert (
        "network.1 (Linear) is the first non-finite layer: its weights contain NaN or Inf after the previous"
        in result.err
    )


def test_a_parameter_outside_of_the_network_is_named_without_blaming_the_rate(kindling: Command) -> None:
    result = kindling("fit", "--model", "helpers.ScaledClassifier", *SHORT)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert ": scale is the first non-finite layer: its weights contain NaN or Inf from the start" in result.err
    assert "--model.optimizer.lr" not in result.err


def test_the_layer_is_found_in_a_compiled_network(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))  # the default takes half a minute
    result = kindling("fit", *TINY, *TOO_FAST, "--model.compile", "true")
    assert "the loss is nan in step 2 (epoch 1) at a learning rate of 1e+30: network.3 (Linear)" in result.err


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("overlay", [[], ["--config", "configs/with/debug.yaml"]], ids=["run", "debug"])
def test_anomaly_detection_ends_in_one_line_with_operation_and_layer(kindling: Command, overlay: list[str]) -> None:
    options = [*SHORT, *overlay, "--trainer.detect_anomaly", "true"]
    result = kindling("fit", "--model", "helpers.NaNGradientClassifier", *options)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert re.search(
        r"the derivative of Mul is nan in step 1 .* network.3 \(NaNGradient\) is the first non-finite layer", result.err
    )
    assert not Path("runs").exists()


def test_a_validation_loss_that_is_not_finite_is_reported(kindling: Command) -> None:
    options = ["--data.broken", "val", "--trainer.max_epochs", "3", "--run_name", "tiny", "--test_after_fit", "false"]
    result = kindling("fit", "--model", "MLPClassifier", "--data", "helpers.BrokenDataModule", *options)
    assert (result.code, result.err) == (0, "")
    assert "stopped early: val/loss is nan, although all training losses are finite: check its samples" in result.out


@pytest.mark.slow
def test_all_processes_stop_if_the_loss_of_one_is_not_finite(folder: Path) -> None:
    distributed = [
        "--data.batch_size",
        "64",
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp",
    ]
    broken = ["--trainer.callbacks", "helpers.NanAt", "--trainer.callbacks.step", "5", "--trainer.callbacks.rank", "1"]
    process = subprocess.run(
        [sys.executable, "-m", "kindling", "fit", *TINY, *distributed, *broken],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert re.search(r"error: the loss is nan in step 6 .* 2 of the 32 samples contain NaN or Inf", process.stderr)
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


class Event:
    """A CUDA event that completes late."""

    arrived = False

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return self.arrived


def test_a_loss_on_the_gpu_is_checked_later_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", Event)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    trainer: Any = SimpleNamespace(world_size=1, global_step=0, current_epoch=0, optimizers=[optimizer])
    finite = TerminateOnNaN()

    def step(loss: float) -> None:
        on_gpu: Any = SimpleNamespace(is_cuda=True, requires_grad=True, detach=lambda: torch.tensor(loss))
        finite.on_before_backward(trainer, None, on_gpu)  # type: ignore[arg-type]
        trainer.global_step += 1

    step(1.0)
    step(float("inf"))
    step(float("nan"))
    Event.arrived = True
    with pytest.raises(NotFiniteError, match=r"the loss is inf in step 2 \(epoch 1\) at a learning rate of 0.5"):
        step(1.0)
    with pytest.raises(NotFiniteError, match="the loss is nan in step 3"):
        finite.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
