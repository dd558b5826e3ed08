"""Weights of 16 bits: for images and tables, from training to predictions, and where they are refused."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from report_reader import read
from torch import Tensor

from conftest import Command
from kindling import DigitsDataModule, MLPClassifier
from kindling.data.mixing import Mixing
from kindling.models.backbone_network import InputAdapter

RUN = Path("runs/tiny/version_0")
SHORT = ["--trainer.max_epochs", "1", "--run_name", "tiny"]
BF16 = ["--trainer.precision", "bf16-true"]
IMAGES = "--model CNNClassifier --model.channels [8] --data ImageFolderDataModule --data.data_dir photos"
TABLE = "--model TabMClassifier --data TableDataModule --data.path table.csv --data.target y"


def write_images() -> None:
    for number in range(60):
        path = Path("photos", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 20 + 40 * (number % 2) + number).save(path)


def write_table() -> None:
    rows = [f"{row * 37 % 300},{row % 2 + row % 5 / 5},{'ab'[row % 2]},{2000 + row / 8}" for row in range(300)]
    Path("table.csv").write_text("\n".join(["x,z,y,year", *rows]))


@pytest.mark.parametrize(
    ("options", "section"),
    [
        pytest.param(IMAGES, "Worst predictions", id="images", marks=pytest.mark.slow),
        pytest.param(TABLE, "Column importance", id="table"),
        pytest.param("--config quickstart", "Worst predictions", id="digits", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_16_bits_trains_is_tested_and_predicts(kindling: Command, options: str, section: str) -> None:
    write_images()
    write_table()
    result = kindling("fit", *options.split(), *SHORT, *BF16)
    assert result.code == 0, result.err
    state = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.bfloat16}
    metrics, report = (RUN / "test_metrics.json").read_text(), read(RUN)
    assert section in report.text
    assert "heat maps" not in result.err
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert (RUN / "test_metrics.json").read_text() == metrics
    rows = (RUN / "predictions.csv").read_text().count("\n")
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert (RUN / "predictions.csv").read_text().count("\n") == rows


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_forward_that_does_not_normalize_receives_inputs_of_that_precision(folder: Path, precision: str) -> None:
    class Plain(MLPClassifier):
        def normalize(self, inputs: Tensor) -> Tensor:
            return inputs

    data = DigitsDataModule(val_split=100)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, precision=precision, **quiet)  # type: ignore[arg-type]
    model = Plain.for_data(data)
    trainer.fit(model, data)
    assert trainer.validate(model, data, verbose=False)[0]["val/loss"] < 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_mixing_resizing_and_class_weights_work_in_each_precision(dtype: torch.dtype) -> None:
    images, labels = torch.rand(6, 3, 8, 8, dtype=dtype), torch.tensor([0, 1, 1, 0, 1, 1])
    mixed, shares = Mixing(mixup=0.4, cutmix=1)(images, labels, 2)
    assert (mixed.dtype, shares.dtype) == (dtype, dtype)
    resize = InputAdapter(1, (12, 12))
    torch.testing.assert_close(resize(images), resize(images.float()).to(dtype), rtol=0.02, atol=1e-3)
    model = MLPClassifier(num_classes=2, input_shape=(3, 8, 8), weighted_loss=True)
    outputs = torch.randn(6, 2)
    expected = model.loss(outputs, labels)
    torch.testing.assert_close(model.to(dtype).loss(outputs, labels), expected)


def test_targets_that_are_numbers_are_not_rounded_to_16_bits(kindling: Command) -> None:
    write_table()
    result = kindling("fit", *TABLE.replace("target y", "target year").split(), *SHORT, *BF16)
    line = "--trainer.precision bf16-true rounds targets to 16 bits, which is too coarse for numbers: use bf16-mixed"
    assert (result.code, result.err.splitlines()[-1]) == (1, f"kindling: error: {line}")
    assert not Path("runs").exists()


def test_float16_weights_are_refused_on_a_cpu(kindling: Command) -> None:
    """Adam divides by zero, as float16 has no number as small as its epsilon."""
    write_table()
    result = kindling("fit", *TABLE.split(), *SHORT, "--trainer.precision", "16-true")
    line = "--trainer.precision 16-true can't train on a CPU: use bf16-true or bf16-mixed"
    assert (result.code, result.err.splitlines()[-1]) == (1, f"kindling: error: {line}")
    assert not Path("runs").exists()
