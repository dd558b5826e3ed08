"""What only a GPU can show: `pytest -m gpu`, on one GPU.

Without a GPU the tests are skipped. `KINDLING_GPU_TESTS_ON=cpu` rehearses on the CPU those that make sense there.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from conftest import Command, differences, different
from kindling import MNISTDataModule, load
from kindling.data import datasets

ACCELERATOR = os.environ.get("KINDLING_GPU_TESTS_ON", "gpu")
DEVICE = "cpu" if ACCELERATOR == "cpu" else "cuda"
ON_GPU = ["--trainer.accelerator", ACCELERATOR, "--trainer.devices", "1"]
# 7 steps per epoch; above 90% after three.
SMALL = (
    "--model CNNClassifier --model.channels [8,16] --model.batch_norm true --model.optimizer.lr 0.01 "
    "--data MNISTDataModule --data.source sample --data.val_split 2250 --data.batch_size 250 "
    "--trainer.max_epochs 3 --run_name gpu"
).split() + ON_GPU
RUN = Path("runs/gpu/version_0")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="not on the CPU")


def accuracy(run: Path) -> float:
    """Return the test accuracy of a run."""
    return float(json.loads((run / "test_metrics.json").read_text())["test/accuracy"])


class BatchRecorder(Callback):
    """Records where the first training batch is, and the memory format of the first convolution."""

    found: ClassVar[dict[str, Any]] = {}

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            convolution = next(module for module in pl_module.modules() if isinstance(module, nn.Conv2d))
            self.handle = convolution.register_forward_hook(self.note)
            self.found.update(batch=batch[0].device.type, weights=convolution.weight.device.type)

    def note(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.found["channels last"] = output.is_contiguous(memory_format=torch.channels_last)
        self.handle.remove()


def command(*options: str) -> subprocess.CompletedProcess[str]:
    """Run `kindling fit` in a process of its own, which leaves no process group behind."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    whole = [sys.executable, "-m", "kindling", "fit", *options]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("16-mixed", marks=needs_cuda)])
def test_mixed_precision_is_as_accurate_as_float32(kindling: Command, precision: str) -> None:
    assert kindling("fit", *SMALL).code == 0
    assert kindling("fit", *SMALL, "--trainer.precision", precision).code == 0
    mixed = Path("runs/gpu/version_1")
    exact, reached = accuracy(RUN), accuracy(mixed)
    assert exact > 0.9
    assert reached > exact - 0.02
    state = torch.load(mixed / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


def test_a_step_runs_on_the_device_with_channels_last(kindling: Command) -> None:
    BatchRecorder.found.clear()
    assert kindling("fit", *SMALL, "--trainer.callbacks", "test_gpu.BatchRecorder").code == 0
    assert BatchRecorder.found == {"batch": DEVICE, "weights": DEVICE, "channels last": True}


@pytest.fixture
def digits() -> MNISTDataModule:
    """Return a data module with a Trainer on the device."""
    data = MNISTDataModule(source="sample", batch_size=250)
    data.trainer = Trainer(accelerator=ACCELERATOR, devices=1, logger=False, enable_checkpointing=False)
    data.setup("fit")
    return data


def test_data_in_memory_is_kept_on_the_device(digits: MNISTDataModule) -> None:
    loader = digits.train_dataloader()
    assert {next(iter(loader))[0].device.type, loader.dataset.labels.device.type} == {DEVICE}  # type: ignore[attr-defined]
    assert not loader.pin_memory


@needs_cuda
@pytest.mark.parametrize("workers", [0, 2])
def test_larger_data_and_data_of_workers_is_copied_from_pinned_memory(
    digits: MNISTDataModule, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    digits.num_workers = workers
    if not workers:
        monkeypatch.setattr(datasets, "free_memory", lambda _: 4 * digits.train.inputs.nbytes - 1)
    images, labels = next(iter(digits.train_dataloader()))
    assert (images.device.type, images.is_pinned(), labels.is_pinned()) == ("cpu", True, True)


def test_a_compiled_network_is_as_accurate(kindling: Command) -> None:
    assert kindling("fit", *SMALL).code == 0
    assert kindling("fit", *SMALL, "--model.compile", "true").code == 0
    assert accuracy(Path("runs/gpu/version_1")) == pytest.approx(accuracy(RUN), abs=0.02)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=needs_cuda)])
def test_strategies_train_the_same_weights_and_write_an_ordinary_checkpoint(kindling: Command, strategy: str) -> None:
    overlay = ["--config", f"configs/with/{strategy}.yaml", *ON_GPU]
    for options in ([], overlay):
        done = command(*SMALL, *options, "--trainer.deterministic", "true")
        assert done.returncode == 0, done.stderr
    plain, distributed = (
        torch.load(f"runs/gpu/version_{number}/checkpoints/best.ckpt", weights_only=True)["state_dict"]
        for number in range(2)
    )
    torch.testing.assert_close(distributed, plain, rtol=1e-3, atol=1e-4)
    run = Path("runs/gpu/version_1")
    trained = accuracy(run)
    assert kindling("test", "--ckpt_path", run, "--trainer.accelerator", "cpu").code == 0
    assert accuracy(run) == pytest.approx(trained, abs=0.002)


@pytest.mark.parametrize("precision", ["32-true", pytest.param("16-mixed", marks=needs_cuda)])
def test_a_killed_run_resumes_to_the_same_bits(kindling: Command, precision: str) -> None:
    # With `deterministic`, CUDA itself repeats its results; 16-mixed also saves the scale of the gradients.
    exact = [*SMALL, "--model.dropout", "0.2", "--trainer.precision", precision, "--trainer.deterministic", "true"]
    exact += ["--checkpoint.every_n_steps", "4"]
    kill = ["--trainer.callbacks", '[{"class_path": "helpers.KillAt", "init_args": {"step": 17}}]']
    assert command(*exact).returncode == 0
    assert command(*exact, *kill).returncode == -signal.SIGKILL
    stopped = Path("runs/gpu/version_1/checkpoints/last.ckpt")
    assert torch.load(stopped, weights_only=True)["global_step"] == 16
    resumed = command("--ckpt_path", "runs/gpu/version_1", "--trainer.callbacks", "null")
    assert resumed.returncode == 0, resumed.stderr
    whole = RUN / "checkpoints/last.ckpt"
    assert different(whole, stopped) == []
    assert [place for place in differences(whole, stopped) if "optimizer" in place or "MixedPrecision" in place] == []


def test_a_checkpoint_trained_on_the_device_is_exported_and_loaded(kindling: Command) -> None:
    assert kindling("fit", *SMALL).code == 0
    exported = kindling("export", "--ckpt_path", RUN, "--format", "onnx")
    assert exported.code == 0, exported.err
    images = MNISTDataModule(source="sample").load("test")[0][:64]
    here, on_cpu = (load(RUN, device=device).predict(images) for device in (DEVICE, "cpu"))
    np.testing.assert_allclose(here.probabilities, on_cpu.probabilities, atol=1e-3)
