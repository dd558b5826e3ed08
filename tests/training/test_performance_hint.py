from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import Command
from kindling.training import performance_hint

pytestmark = pytest.mark.usefixtures("console_logs")

CNN = (
    "fit --model CNNClassifier --model.channels [4] --data MNISTDataModule --data.source sample --data.batch_size 64 "
    "--trainer.max_epochs 2 --test_after_fit false --trainer.accelerator cpu"
).split()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("CUDA", "MPS"):
        monkeypatch.setattr(f"lightning.pytorch.accelerators.{kind}Accelerator.is_available", lambda: False)


def hints(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("hint: ")]


@pytest.fixture
def has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance_hint, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(performance_hint, "MIN_BF16_STEP_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("has_bf16")
def test_bf16_is_suggested_once_if_the_processor_supports_it(kindling: Command) -> None:
    assert hints(kindling(*CNN).err) == [f"hint: {performance_hint.BF16_HINT}"]


@pytest.mark.slow
@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize("options", [["--trainer.precision", "bf16-mixed"], ["--trainer.limit_train_batches", "15"]])
def test_bf16_is_not_suggested_if_it_is_used_or_the_run_is_short(kindling: Command, options: list[str]) -> None:
    assert hints(kindling(*CNN, *options).err) == []


@pytest.mark.slow
def test_bf16_is_not_suggested_if_the_processor_lacks_it(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance_hint, "MIN_BF16_STEP_SECONDS", 0.0)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert hints(kindling(*CNN).err) == []


@pytest.mark.parametrize(
    ("device", "bf16", "precision", "said"),
    [
        ("cpu", False, "32-true", "a GPU is not used: --trainer.accelerator gpu"),
        ("cuda", True, "32-true", performance_hint.BF16_HINT),
        ("cuda", True, "bf16-mixed", None),
        ("cuda", False, "32-true", None),
    ],
)
def test_an_unused_gpu_is_suggested_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    bf16: bool,
    precision: str,
    said: str | None,
) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), precision=precision)
    performance_hint.PerformanceHint().on_train_start(trainer, None)  # type: ignore[arg-type]
    assert hints(capsys.readouterr().err) == ([f"hint: {said}"] if said else [])


@pytest.mark.alone
def test_workers_are_suggested_if_training_waits_for_data(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = """
import time
from kindling import MNISTDataModule

class SlowDataModule(MNISTDataModule):
    def setup(self, stage):
        super().setup(stage)
        if stage == "fit":
            quick = self.train.__class__.__getitems__
            class Slow(self.train.__class__):
                def __getitems__(self, indices):
                    time.sleep(0.1)
                    return quick(self, indices)
            self.train.__class__ = Slow
"""
    Path("slow.py").write_text(slow)
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(3), raising=False)
    options = ["--data", "slow.SlowDataModule", "--data.source", "sample", "--data.batch_size", "64"]
    found = hints(kindling(*CNN[:5], *options, "--trainer.max_epochs", "1", "--test_after_fit", "false").err)
    assert len(found) == 1
    assert found[0].endswith("--data.num_workers 3")


@pytest.mark.slow
@pytest.mark.usefixtures("has_bf16")
def test_a_resumed_run_is_timed_by_its_own_batches(kindling: Command) -> None:
    stop = ["--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", "20", "--run_name", "tiny"]
    assert hints(kindling(*CNN, *stop).err) == []
    assert hints(kindling("fit", "--ckpt_path", "last").err) == [f"hint: {performance_hint.BF16_HINT}"]
