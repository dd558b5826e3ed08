"""The TensorBoard events of a run, read with TensorBoard's own reader."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from conftest import TINY, TRANSFER, Command, Train
from kindling import MLPClassifier
from kindling.tensorboard import Dashboard, images
from kindling.tensorboard.logger import SplitLogger
from kindling.tensorboard.network import write_network
from kindling.tensorboard.projector import reduce_features
from kindling.training import TrainingStatsMonitor

pytestmark = pytest.mark.usefixtures("pictures")

RUN = Path("runs/tiny/version_0")
DIGITS = (
    "fit --model CNNClassifier --model.channels [4] --model.hidden 8 --data MNISTDataModule --data.source sample "
    "--data.degrees 10 --trainer.limit_train_batches 5 --trainer.max_epochs 2 --run_name tiny"
).split()


def read(part: str, run: Path = RUN) -> EventAccumulator:
    found = EventAccumulator(str(run / part), size_guidance={"images": 0, "tensors": 0, "histograms": 0})
    return found.Reload()


def picture(part: str, tag: str, run: Path = RUN) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(read(part, run).Images(tag)[-1].encoded_image_string)))


def hyperparameters(run: Path) -> dict[str, Any]:
    tag = metadata.SESSION_START_INFO_TAG
    content = read("test", run).SummaryMetadata(tag).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def test_training_and_validation_share_a_chart(trained: Train) -> None:
    trained(*TINY)
    for metric in ("loss", "accuracy", "balanced_accuracy", "f1"):
        for stage, times in (("train", 2), ("val", 2)):
            values = [event.value for event in read(stage).Scalars(f"metrics/{metric}")]
            with (RUN / "metrics.csv").open(newline="") as file:
                expected = [float(row[name]) for row in csv.DictReader(file) if row[name := f"{stage}/{metric}"]]
            assert len(values) == times
            assert values == pytest.approx(expected, rel=1e-6)
    others = {name for name in read("train").Tags()["scalars"] if not name.startswith("metrics/")}
    figures = ("lr", "gradient_norm", "samples_per_second", "memory_gb")
    assert others == {f"optimization/{name}" for name in figures}
    assert len(list((RUN / "train").glob("*.tfevents.*"))) == 1  # of several files, TensorBoard reads the last one


def test_every_tab_has_content_for_images(kindling: Command) -> None:
    assert kindling(*DIGITS).code == 0
    assert read("train").Tags()["graph"]
    assert len(read("train").Histograms("weights/0.weight")) >= 1
    assert len(read("train").Histograms("weights/0.weight (gradient)")) >= 1
    assert {f"{tag}/text_summary" for tag in ("config", "model and commands")} <= set(read("train").Tags()["tensors"])
    of_training = {"pictures/training samples", "pictures/filters of the first layer"}
    assert set(read("train").Tags()["images"]) == of_training
    assert set(read("val").Tags()["images"]) == {"pictures/confusion matrix", "pictures/worst predictions"}
    for split in ("val", "test"):
        assert {f"precision-recall/{digit}" for digit in range(10)} <= set(read(split).Tags()["tensors"])
    rows = (RUN / "test" / "00010" / "last_hidden_layer" / "tensors.tsv").read_text().splitlines()
    assert len(rows) == 1000
    assert len(rows[0].split("\t")) == 8


@pytest.mark.slow
def test_a_table_has_every_tab_that_applies(trained: Train) -> None:
    trained(*TINY)
    assert read("val").Tags()["images"] == ["pictures/confusion matrix"]
    worst = make_ndarray(read("val").Tensors("worst predictions/text_summary")[-1].tensor_proto)
    assert b"| row | label | prediction | probability |" in worst.item()
    assert not read("train").Tags()["images"]
    assert (RUN / "test" / "projector_config.pbtxt").exists()
    assert not list(RUN.rglob("sprite.png"))


@pytest.mark.slow
def test_a_histogram_is_that_of_the_weights(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    trained = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.1.weight"]
    last = read("train").Histograms("weights/1.weight")[-1].histogram_value
    assert last.num == trained.numel()
    assert (last.min, last.max) == pytest.approx((trained.min().item(), trained.max().item()))
    assert (last.sum, last.sum_squares) == pytest.approx(
        (trained.sum().item(), trained.square().sum().item()), rel=1e-4
    )
    assert sum(last.bucket) == trained.numel()


@pytest.mark.slow
def test_precision_of_a_curve_is_that_of_the_predictions(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.max_epochs", "8", "--model.optimizer.lr", "0.03").code == 0
    curves = make_ndarray(read("test").Tensors("precision-recall/0")[-1].tensor_proto)  # (6, thresholds)
    with (RUN / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sure = [float(row["0"]) >= 63 / 126 for row in rows]  # the threshold in the middle
    assert sum(sure) > 10
    expected = precision_score([row["label"] == "0" for row in rows], sure)
    assert curves[4, 63] == pytest.approx(expected, abs=1e-6)


def test_hparams_show_hyperparameters_and_final_metrics(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--model.dropout", "0.1", "--model.optimizer.lr", "0.02").code == 0
    assert kindling("fit", *TINY, "--model.optimizer", "SGD", "--model.optimizer.momentum", "0.9").code == 0
    first, second = hyperparameters(RUN), hyperparameters(Path("runs/tiny/version_1"))
    assert (
        first.items() >= {"model": "MLPClassifier", "hidden": "8", "dropout": 0.1, "lr": 0.02, "batch_size": 32}.items()
    )
    assert second.items() >= {"optimizer": "SGD", "momentum": 0.9, "seed": 42, "data": "SyntheticDataModule"}.items()
    assert "betas" in first
    assert "betas" not in second
    for values in (first, second):
        assert not {"class_names", "mean", "num_workers", "_class_path"} & set(values)
    tested = json.loads((RUN / "test_metrics.json").read_text())["test/accuracy"]
    assert read("test").Scalars("result/test_accuracy")[-1].value == pytest.approx(tested, abs=1e-6)
    # Of the epoch that was tested, not of the last one.
    losses = [event.value for event in read("val").Scalars("metrics/loss")]
    assert read("test").Scalars("result/val_loss")[-1].value == pytest.approx(min(losses))
    # Such a list would hide the hyperparameters of all other runs.
    assert metadata.EXPERIMENT_TAG not in read("test").Tags()["tensors"]


@pytest.mark.slow
def test_the_worst_predictions_are_those_of_the_best_epoch(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(
        "kindling.tensorboard.dashboard.write_worst_predictions",
        lambda _, found, *rest: shown.append(found.predictions),
    )
    assert kindling("fit", *TINY, "--model.optimizer.lr", "1", "--model.softmax_temperature", "1").code == 0
    losses = [event.value for event in read("val").Scalars("metrics/loss")]
    assert losses[-1] > min(losses)
    loss = F.nll_loss(shown[0].probabilities.log(), shown[0].labels)
    assert loss.item() == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.slow
def test_training_samples_are_shown_as_the_network_receives_them(kindling: Command) -> None:
    assert kindling(*DIGITS, "--test_after_fit", "false").code == 0
    turned = picture("train", "pictures/training samples")
    assert kindling(*DIGITS, "--test_after_fit", "false", "--data.degrees", "0").code == 0
    upright = picture("train", "pictures/training samples", Path("runs/tiny/version_1"))
    assert turned.shape == upright.shape
    assert (turned != upright).any()
    assert upright.shape[1] > 6 * 96


@pytest.mark.slow
def test_an_interrupted_run_has_a_complete_dashboard(kindling: Command) -> None:
    stop = ["--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", 9]
    assert kindling("fit", *TINY, *stop).code == 1
    assert read("val").Tags()["images"] == ["pictures/confusion matrix"]
    assert read("train").Tags()["graph"]
    assert hyperparameters(RUN)["hidden"] == "8"


def test_points_of_a_session_interrupted_in_its_first_epoch_are_dropped(kindling: Command) -> None:
    """There is no row of metrics.csv yet, but there are histograms."""
    stop = ["--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", 2]
    assert kindling("fit", *TINY, *stop).code == 1
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.callbacks", "null").code == 0
    events = [event for file in (RUN / "train").glob("*tfevents*") for event in EventFileLoader(str(file)).Load()]
    assert [event.step for event in events if event.HasField("session_log")] == [3]


@pytest.mark.slow
def test_a_separate_test_adds_to_the_dashboard_of_the_run(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    assert "result/test_accuracy" not in read("test").Tags()["scalars"]
    for _ in range(2):
        assert kindling("test", "--ckpt_path", RUN).code == 0
    tested = json.loads((RUN / "test_metrics.json").read_text())["test/accuracy"]
    assert read("test").Scalars("result/test_accuracy")[-1].value == pytest.approx(tested, abs=1e-6)
    assert read("test").Tags()["images"] == ["pictures/confusion matrix"]
    assert (RUN / "test" / "projector_config.pbtxt").read_text().count("tensor_name") == 1


@pytest.mark.slow
def test_a_frozen_backbone_has_its_own_learning_rate(kindling: Command, cached: Path) -> None:
    assert kindling(*TRANSFER, "--model.unfreeze_epoch", "1", "--trainer.log_every_n_steps", "1").code == 0
    head, backbone = (read("train").Scalars(f"optimization/lr/{name}") for name in ("head", "backbone"))
    assert len(head) == 12
    assert [event.value for event in backbone] == pytest.approx([event.value / 10 for event in head[4:]])


@pytest.mark.slow
def test_without_a_logger_nothing_is_written(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.logger", "false").code == 0
    assert not list(RUN.rglob("*tfevents*"))


@pytest.mark.slow
def test_a_network_that_cannot_be_traced_has_no_graph_and_trains(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--model", "helpers.Untraceable")
    assert result.code == 0, result.err
    assert "TensorBoard shows no graph" in result.err
    assert not read("train").Tags()["graph"]


@pytest.mark.alone
def test_the_dashboard_takes_less_than_three_percent_of_the_training_time(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent, begins = [0.0], dict[str, float]()

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            start, before = time.thread_time(), spent[0]
            begins.setdefault(name, start)
            if name == "on_train_end":
                begins["spent"] = before
            result = function(*arguments, **options)
            spent[0] = before + time.thread_time() - start  # what is called within counts once
            return result

        return call

    for cls in (Dashboard, TrainingStatsMonitor, SplitLogger):
        for name, function in list(vars(cls).items()):
            if name.startswith("on_") or name in ("log_metrics", "save"):
                monkeypatch.setattr(cls, name, timed(name, function))
    recipe = "--config configs/quickstart.yaml --trainer.max_epochs 4 --test_after_fit false".split()
    assert kindling("fit", *recipe).code == 0
    # CPU time of this thread, which other processes do not affect.
    assert begins["spent"] < 0.03 * (begins["on_train_end"] - begins["on_train_epoch_start"])


def test_captions_fit_however_narrow_the_images_are() -> None:
    page = images.image_grid(torch.zeros(2, 1, 100, 4), [["a long name"], ["漢字"]])
    assert page.height > 96


@pytest.mark.slow
def test_unusual_class_names_break_nothing(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--data", "helpers.OddNamesDataModule", "--model.optimizer.lr", "0.1")
    assert result.code == 0, result.err
    assert "Glyph" not in result.err
    rows = (RUN / "test" / "00014" / "last_hidden_layer" / "metadata.tsv").read_text().splitlines()
    assert len(rows) == 1 + 60
    assert {row.count("\t") for row in rows} == {2}
    worst = make_ndarray(read("val").Tensors("worst predictions/text_summary")[-1].tensor_proto).item().decode()
    assert {line.replace("\\|", "").count("|") for line in worst.splitlines()} == {5}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", ["UntraceableByAssertion", "Sequences", "KeywordInputs", "NoLinearLayer"])
def test_any_network_has_a_dashboard(kindling: Command, kind: str) -> None:
    result = kindling("fit", *TINY[4:], "--model", f"helpers.{kind}", "--model.width", "8")
    assert result.code == 0, result.err
    assert read("test").Tags()["images"] == ["pictures/confusion matrix"]


def test_a_compiled_network_has_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLPClassifier(num_classes=3, input_shape=(4,))
    model.network._compiled_call_impl = compiled = lambda *_: pytest.fail("this would be slow")
    written: list[Any] = []
    monkeypatch.setattr(SummaryWriter, "add_graph", lambda _, network, inputs: written.append(network(inputs)))
    write_network(SummaryWriter("events"), model, 0)
    assert written[0].shape == (1, 3)
    assert model.network._compiled_call_impl is compiled


@pytest.mark.slow
def test_a_resumed_run_keeps_the_results_of_its_best_epoch(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    best = read("test").Scalars("result/val_loss")[-1].value
    more = ["--trainer.max_epochs", "4", "--model.optimizer.lr", "10", "--test_after_fit", "false"]
    assert kindling("fit", "--ckpt_path", RUN, *more).code == 0
    losses = [event.value for event in read("val").Scalars("metrics/loss")]
    assert min(losses[2:]) > best
    assert read("test").Scalars("result/val_loss")[-1].value == pytest.approx(best)
    assert read("val").Tags()["images"] == ["pictures/confusion matrix"]  # of that epoch, still there


@pytest.mark.slow
def test_a_crashed_run_still_shows_its_best_epoch_when_it_ends(kindling: Command) -> None:
    crash = ["--trainer.callbacks", "helpers.CrashAt", "--trainer.callbacks.step", "16"]
    with pytest.raises(RuntimeError, match="simulated crash"):
        kindling("fit", *TINY, "--trainer.max_epochs", "3", *crash)
    worse = ["--trainer.callbacks", "null", "--model.optimizer.lr", "10", "--test_after_fit", "false"]
    assert kindling("fit", "--ckpt_path", RUN, *worse).code == 0
    losses = [event.value for event in read("val").Scalars("metrics/loss")]
    assert losses[2] > min(losses)
    assert read("val").Tags()["images"] == ["pictures/confusion matrix"]


@pytest.mark.slow
def test_results_of_an_interruption_are_dropped_even_if_the_next_session_crashes(kindling: Command) -> None:
    def stop(name: str, step: int) -> list[str]:
        return ["--trainer.callbacks", f"helpers.{name}", "--trainer.callbacks.step", str(step)]

    assert kindling("fit", *TINY, *stop("SignalAt", 9)).code == 1
    interrupted = [event.step for event in read("test").Scalars("result/val_loss")]
    with pytest.raises(RuntimeError, match="simulated crash"):  # it has saved a later checkpoint, but no figures
        kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "3", *stop("CrashAt", 16))
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.callbacks", "null", "--test_after_fit", "false").code == 0
    shown = [event.step for event in read("test").Scalars("result/val_loss")]
    assert len(interrupted) == len(shown) == 1
    assert interrupted < shown


@pytest.mark.slow
def test_another_metric_can_decide_which_epoch_is_best(kindling: Command) -> None:
    monitor = ["--checkpoint.monitor", "val/accuracy"]
    assert kindling("fit", *TINY, *monitor, "--model.optimizer.lr", "0.5", "--trainer.max_epochs", "5").code == 0
    accuracies, losses = (
        [event.value for event in read("val").Scalars(f"metrics/{of}")] for of in ("accuracy", "loss")
    )
    assert read("test").Scalars("result/val_loss")[-1].value == losses[accuracies.index(max(accuracies))]


def test_many_features_are_shown_by_their_principal_components() -> None:
    points = torch.randn(300, 500) * torch.logspace(0, -3, 500)
    shown = reduce_features(points)
    assert shown.shape == (300, 200)
    expected = PCA(200).fit(points.numpy()).explained_variance_
    np.testing.assert_allclose(shown.var(0).numpy(), expected, rtol=1e-2)
    assert reduce_features(torch.full((3, 500), torch.nan)).shape == (3, 200)  # of a model that diverged


@pytest.mark.slow
def test_samples_are_shown_if_features_are_cached(kindling: Command, cached: Path) -> None:
    assert kindling(*TRANSFER, "--model.unfreeze_epoch", "null").code == 0
    assert "pictures/training samples" in read("train").Tags()["images"]


def test_a_dashboard_without_its_logger_is_an_error() -> None:
    with pytest.raises(ValueError, match="a Dashboard needs a Trainer"):
        Trainer(callbacks=[Dashboard()], logger=False).fit(MLPClassifier(num_classes=2, input_shape=(2,)))
