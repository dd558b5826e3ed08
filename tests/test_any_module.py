"""Modules, data modules and datasets that know nothing of Kindling, and tasks with unusual inputs or outputs."""

import csv
import json
from pathlib import Path

import pytest
import torch
from modules import Shapes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Command, different
from kindling.metric_names import standard_name

BORING = "lightning.pytorch.demos.boring_classes."
PLAIN = ["--model", "modules.Segmentation", "--data", "modules.ShapesDataModule", "--run_name", "plain"]
RUN = Path("runs/plain/version_0")
FEW = ["--trainer.max_epochs", "3"]


def callback(name: str, step: int) -> list[str]:
    return ["--trainer.callbacks", json.dumps([{"class_path": f"helpers.{name}", "init_args": {"step": step}}])]


def test_lightnings_own_demo_modules_train_test_predict_and_resume(kindling: Command) -> None:
    options = ["--model", f"{BORING}BoringModel", "--data", f"{BORING}BoringDataModule", "--trainer.max_epochs", "1"]
    fitted = kindling("fit", *options)
    run = Path("runs/BoringModel-BoringDataModule/version_0")
    assert (fitted.code, fitted.err) == (0, "")
    for command in ("test", "validate", "predict"):
        result = kindling(command, "--ckpt_path", run)
        assert (result.code, result.err) == (0, "")
    assert len(torch.cat(torch.load(run / "predictions.pt", weights_only=True))) == 64
    assert kindling("fit", "--ckpt_path", run, "--trainer.max_epochs", "2").code == 0
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    assert "BoringModel-BoringDataModule" in kindling("runs").out


def test_a_model_with_loaders_of_its_own_needs_no_data_module(kindling: Command) -> None:
    fitted = kindling("fit", "--model", f"{BORING}BoringModel", "--trainer.max_epochs", "1")
    assert (fitted.code, fitted.err) == (0, "")
    assert kindling("test", "--ckpt_path", "best").code == 0


def test_a_plain_module_gets_what_a_run_gets(kindling: Command) -> None:
    fitted = kindling("fit", *PLAIN, *FEW)
    assert (fitted.code, fitted.err) == (0, "")
    assert "epoch 3/3  train/loss 0." in fitted.out
    assert "val/iou" in fitted.out
    record = json.loads((RUN / "run.json").read_text())
    assert record["best"]["val/loss"] == pytest.approx(
        min(float(row["val_loss"]) for row in csv.DictReader((RUN / "metrics.csv").open()) if row["val_loss"])
    )
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert best["hyper_parameters"]["num_classes"] == 2  # required, and so linked to the data
    assert best["hyper_parameters"]["_class_path"] == "modules.Segmentation"
    assert (RUN / "training_history.png").stat().st_size > 20_000
    events = EventAccumulator(str(RUN / "val"))
    events.Reload()
    assert {"metrics/loss", "metrics/iou"} <= set(events.Tags()["scalars"])
    assert kindling("predict", "--ckpt_path", RUN).code == 0
    masks = torch.cat(torch.load(RUN / "predictions.pt", weights_only=True))
    assert masks.shape == (len(Shapes(2)), 8, 8)


@pytest.mark.parametrize("stop", ["CrashAt", "SignalAt"])
def test_a_plain_loader_resumes_exactly_from_the_start_of_an_epoch(kindling: Command, stop: str) -> None:
    kindling("fit", *PLAIN, *FEW)
    if stop == "CrashAt":
        with pytest.raises(RuntimeError, match="lights"):
            kindling("fit", *PLAIN, *FEW, *callback(stop, 8))
    else:
        stopped = kindling("fit", *PLAIN, *FEW, *callback(stop, 8))
        assert (stopped.code, "epoch 2 will start over: a DataLoader cannot" in stopped.out) == (1, True)
    run = Path("runs/plain/version_1")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    resumed = kindling("fit", "--ckpt_path", run, "--trainer.callbacks", "null")
    assert (resumed.code, resumed.err) == (0, "")
    assert different(RUN / "checkpoints/last.ckpt", run / "checkpoints/last.ckpt") == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_in_our_data_module_resumes_exactly_within_an_epoch(kindling: Command, workers: int) -> None:
    options = ["--model", "modules.LanguageModel", "--data", "modules.TextDataModule", "--run_name", "text", *FEW]
    options += ["--data.num_workers", str(workers)]
    assert kindling("fit", *options).code == 0
    assert kindling("fit", *options, *callback("SignalAt", 4)).code == 1
    run = Path("runs/text/version_1")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert kindling("fit", "--ckpt_path", run, "--trainer.callbacks", "null").code == 0
    assert different(Path("runs/text/version_0/checkpoints/last.ckpt"), run / "checkpoints/last.ckpt") == []


@pytest.mark.parametrize("data", [["PointsDataModule"], ["OwnPointsDataModule", "--data.batch_size", "8"]])
def test_several_optimizers_stepped_by_hand(kindling: Command, data: list[str]) -> None:
    options = ["--model", "modules.GAN", "--run_name", "gan", *FEW, "--data", f"modules.{data[0]}", *data[1:]]
    fitted = kindling("fit", *options)
    assert (fitted.code, fitted.err) == (0, "")
    assert "critic_loss" in fitted.out
    assert "predict" not in fitted.out
    header = Path("runs/gan/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"critic_loss", "generator_loss", "lr/0", "lr/1", "gradient_norm"} <= set(header)
    assert kindling("fit", *options, *callback("SignalAt", 13)).code == 1
    resumed = kindling("fit", "--ckpt_path", "runs/gan/version_1", "--trainer.callbacks", "null")
    assert (resumed.code, resumed.err) == (0, "")
    checkpoints = [Path(f"runs/gan/version_{number}/checkpoints/last.ckpt") for number in (0, 1)]
    assert different(*checkpoints) == []


def test_a_task_with_several_labels(kindling: Command) -> None:
    options = ["--model", "modules.MultiLabel", "--data", "modules.MultiLabelDataModule", "--run_name", "labels"]
    fitted = kindling("fit", *options, "--trainer.max_epochs", "20", "--model.optimizer.lr", "0.1")
    assert (fitted.code, fitted.err) == (0, "")
    metrics = json.loads(Path("runs/labels/version_0/test_metrics.json").read_text())
    assert metrics["test/f1"] > 0.9
    assert kindling("predict", "--ckpt_path", "best").code == 0
    predictions = torch.cat(torch.load("runs/labels/version_0/predictions.pt", weights_only=True))
    assert predictions.shape == (100, 3)
    assert 0 <= predictions.min() <= predictions.max() <= 1
    assert kindling("export", "--ckpt_path", "best", "--format", "torch_export").code == 0
    assert kindling("fit", *options, "--overfit", "--model.optimizer.lr", "0.5").code == 0


def test_a_classifier_with_two_inputs(kindling: Command) -> None:
    options = ["--model", "modules.TwoInputs", "--data", "modules.TwoInputsDataModule", "--run_name", "two", *FEW]
    fitted = kindling("fit", *options)
    assert (fitted.code, fitted.err) == (0, "")
    assert Path("runs/two/version_0/report.html").exists()
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert len(Path("runs/two/version_0/predictions.csv").read_text().splitlines()) == 61


def test_one_class_for_each_position_of_a_sequence(kindling: Command) -> None:
    options = ["--model", "modules.Tagger", "--data", "modules.TaggerDataModule", "--run_name", "tags"]
    fitted = kindling("fit", *options, "--trainer.max_epochs", "20", "--model.optimizer.lr", "0.1")
    assert (fitted.code, fitted.err) == (0, "")
    assert json.loads(Path("runs/tags/version_0/test_metrics.json").read_text())["test/accuracy"] > 0.9
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert torch.cat(torch.load("runs/tags/version_0/predictions.pt", weights_only=True)).shape == (80, 2, 10)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--model", "modules.Segmentation", "--data", f"{BORING}BoringDataModule"], "--model.num_classes VALUE"),
        (["--model", "modules.Segmentation", "--data", "modules.NetDataModule"], "ignore=['network']"),
        (["--model", f"{BORING}BoringModel", "--data", f"{BORING}BoringDataModule", "--overfit"], "Kindling's tasks"),
        (["--model", "MLPRegressor", "--data", "SyntheticDataModule"], "predicts numbers, and the targets"),
    ],
)
def test_what_does_not_go_together_ends_in_one_line(kindling: Command, options: list[str], wanted: str) -> None:
    result = kindling("fit", *options)
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert wanted in result.err


def test_what_a_model_needs_may_be_typed(kindling: Command) -> None:
    options = ["--model", "modules.Segmentation", "--model.num_classes", "3", "--data", "modules.ShapesDataModule"]
    assert kindling("fit", *options, "--run_name", "typed", *FEW).code == 0
    assert "num_classes: 3" in Path("runs/typed/version_0/config.yaml").read_text()
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert kindling("fit", "--ckpt_path", "runs/typed/version_0", "--trainer.max_epochs", "4").code == 0


def test_a_plain_module_stores_only_its_own_arguments(kindling: Command) -> None:
    data = ["--data", "SyntheticDataModule", "--data.num_samples", "100"]  # which knows shape, classes, mean and std
    assert kindling("fit", "--model", "modules.Rows", *data, "--trainer.max_epochs", "1").code == 0
    run = Path("runs/Rows-SyntheticDataModule/version_0")
    stored = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert {name for name in stored if not name.startswith("_")} == {"width"}
    assert kindling("validate", "--ckpt_path", run).code == 0


def test_the_commands_for_classes_refuse_a_plain_module_in_one_line(kindling: Command) -> None:
    kindling("fit", *PLAIN, *FEW)
    for command in (["export", "--ckpt_path", RUN], ["serve", "--ckpt_path", RUN]):
        result = kindling(*command)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "load_from_checkpoint" in result.err


def test_names_of_metrics() -> None:
    names = {"val_loss": "val/loss", "valid/acc": "val/acc", "train_loss_epoch": "train/loss", "loss": "loss"}
    names |= {"value": "value", "trainer_x": "trainer_x", "test_f1": "test/f1"}
    assert {name: standard_name(name) for name in names} == names
