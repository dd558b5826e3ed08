"""The softmax temperature, which makes probabilities match frequencies."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from report_reader import read as read_report
from servers import serving
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_calibration_error

from conftest import Command, Train, weights
from kindling import ClassificationTask, MLPClassifier, SyntheticDataModule, load
from kindling.deploy.formats import FORMATS
from kindling.models.loading import load_model
from kindling.models.temperature import HIGHEST, LOWEST, fit_temperature
from kindling.models.validation_outputs import ValidationOutputs
from ranks import Ranks

RUN = Path("runs/soft/version_0")
BEST = RUN / "checkpoints" / "best.ckpt"
DATA = "--data SyntheticDataModule --data.num_samples 2000 --data.batch_size 50 --data.val_split 400".split()
SMOOTH = (
    "--model MLPClassifier --model.hidden [16] --model.label_smoothing 0.2 --model.optimizer.lr 0.01 "
    "--trainer.max_epochs 2 --run_name soft"
).split() + DATA
RAW = ("--model.softmax_temperature", "1")


def sample(number: int, classes: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits, and labels drawn from their probabilities at a temperature."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(number, classes, generator=random)
    return logits, (logits / temperature).softmax(1).multinomial(1, generator=random).squeeze(1)


def outputs_of(model: ClassificationTask, split: str) -> tuple[Tensor, Tensor]:
    """Return the logits of a model for a split, and the labels."""
    data = SyntheticDataModule(num_samples=2000, val_split=400)
    data.setup("fit" if split == "val" else "test")
    part = getattr(data, split)
    with torch.no_grad():
        return model(part.inputs), part.labels


def trained_model(checkpoint: Path = BEST) -> ClassificationTask:
    model = load_model(checkpoint)
    assert isinstance(model, ClassificationTask)
    return model


def written(run: Path = RUN) -> tuple[list[str], Tensor]:
    """Return the predictions and the probabilities in predictions.csv."""
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [row["prediction"] for row in rows], torch.tensor([[float(row[name]) for name in "012"] for row in rows])


def curves(run: Path) -> str:
    """Return the training and validation metrics of a run, which are not about speed."""
    metrics = pd.read_csv(run / "metrics.csv").filter(regex="^(train|val)/")
    return str(metrics.to_csv())


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_it_is_that_of_logistic_regression(temperature: float) -> None:
    logits, labels = sample(20_000, 2, temperature)
    fitted = LogisticRegression(C=np.inf, fit_intercept=False).fit(logits[:, 1:] - logits[:, :1], labels)
    assert fit_temperature(logits, labels) == pytest.approx(1 / fitted.coef_[0, 0], rel=2e-3)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_it_has_the_lowest_log_loss_and_calibrates(temperature: float, classes: int) -> None:
    logits, labels = sample(20_000, classes, temperature)
    found = fit_temperature(logits, labels)
    grid = np.geomspace(LOWEST, HIGHEST, 1200)
    losses = [F.cross_entropy(logits.double() / each, labels).item() for each in grid]
    assert found == pytest.approx(grid[np.argmin(losses)], rel=5e-3)
    assert fit_temperature(logits.log_softmax(1), labels) == pytest.approx(found, rel=1e-5)
    others, unseen = sample(20_000, classes, temperature, seed=1)
    before, after = (multiclass_calibration_error(others / each, unseen, classes) for each in (1, found))
    assert after < 0.01 < before


def test_it_never_makes_the_log_loss_worse_and_leaves_few_samples_alone() -> None:
    for seed in range(30):
        logits, labels = sample(20 + seed, 3, 1.0, seed)
        found = fit_temperature(logits, labels)
        gain = F.cross_entropy(logits, labels) - F.cross_entropy(logits / found, labels)
        assert found == 1 or gain * len(labels) > 1
    logits, labels = sample(8, 3, 1.5)
    assert fit_temperature(logits, labels) == 1
    assert fit_temperature(torch.zeros(50, 3), torch.zeros(50).long()) == 1  # all temperatures are equal
    assert fit_temperature(torch.full((50, 3), torch.nan), torch.zeros(50).long()) == 1
    assert fit_temperature(torch.empty(0, 3), torch.empty(0).long()) == 1


def test_perfect_predictions_do_not_become_certain() -> None:
    labels = torch.arange(3).repeat(100)
    logits = F.one_hot(labels).float()
    found = fit_temperature(logits, labels)
    confidence = (logits / found).softmax(1).amax(1)
    assert found < 1
    assert confidence.amax() == pytest.approx(1 - 2 / 3 / 301, abs=1e-4)  # 300 samples, and one with equal shares
    assert fit_temperature(100 * logits, labels) == 1  # no better than what the network says
    assert fit_temperature(logits / 1000, labels) == pytest.approx(LOWEST, rel=1e-4)
    assert fit_temperature(1000 * logits, labels.roll(1)) == pytest.approx(HIGHEST, rel=1e-4)


def test_rows_are_dropped_evenly_if_there_are_too_many() -> None:
    kept = ValidationOutputs(2)
    for start in range(0, 1000, 10):
        numbers = torch.arange(start, start + 10)
        kept.add(torch.stack([numbers, numbers], 1).float(), numbers % 2, 300)
    assert kept.batches is None
    logits, _ = kept.gather(1, torch.device("cpu"))
    assert logits[:, 0].tolist() == [*range(0, 1000, 4)]
    kept.clear()
    kept.add(torch.zeros(2, 2, 5, 5), torch.full((2, 5, 5), 255), 1000)  # positions that a loss ignores
    kept.add(torch.zeros(3, 2), torch.zeros(3, 2), 1000)
    assert len(kept.gather(1, torch.device("cpu"))[0]) == 0


def test_fit_stores_it_and_every_command_uses_it(kindling: Command, trained: Train) -> None:
    trained(*SMOOTH)
    model = trained_model()
    stored = torch.load(BEST, weights_only=True)["softmax_temperature"]
    assert isinstance(stored, float)
    assert stored == model.softmax_temperature < 0.9
    assert fit_temperature(*outputs_of(model, "val")) == pytest.approx(stored, rel=1e-5)
    logits, labels = outputs_of(model, "test")
    expected, raw = (logits / stored).softmax(1), logits.softmax(1)
    predictions, probabilities = written()
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)
    assert predictions == [str(label) for label in raw.argmax(1).tolist()]
    measured = json.loads((RUN / "test_metrics.json").read_text())
    assert measured["test/loss"] == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.2).item(), abs=1e-5)

    text = read_report(RUN).text
    for part, words in ((expected, "with 15 bins: {:.2%}"), (raw, "Without it: ECE {:.2%}")):
        assert words.format(multiclass_calibration_error(part, labels, 3).item()) in text
        assert f"log loss: {log_loss(labels, part.double()):.4f}" in text
    assert f"the softmax temperature, {stored:.3g}" in text
    [(low, high)] = re.findall(r"loss[\d.]+?([\d.]{6}) to ([\d.]{6})", text)
    assert float(low) < measured["test/loss"] < float(high)

    for command in ("predict", "test"):
        assert kindling(command, "--ckpt_path", RUN).code == 0
        torch.testing.assert_close(written()[1], expected, atol=1e-5, rtol=1e-4)
    assert json.loads((RUN / "test_metrics.json").read_text()) == measured
    data = SyntheticDataModule(num_samples=2000)
    data.setup("test")
    torch.testing.assert_close(torch.from_numpy(load(RUN).predict(data.test.inputs).probabilities), expected)
    assert kindling("test", "--ckpt_path", RUN, *RAW).code == 0  # another model than that of the run
    torch.testing.assert_close(written()[1], expected, atol=1e-5, rtol=1e-4)


def test_training_does_not_depend_on_it(kindling: Command, trained: Train) -> None:
    trained(*SMOOTH)
    assert kindling("fit", *SMOOTH, *RAW).code == 0
    other = RUN.with_name("version_1")
    assert curves(RUN) == curves(other)
    ours, theirs = weights(BEST), weights(other / "checkpoints/best.ckpt")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "softmax_temperature" not in torch.load(other / "checkpoints/best.ckpt", weights_only=True)  # an argument
    torch.testing.assert_close(written(other)[1], outputs_of(trained_model(), "test")[0].softmax(1), atol=1e-5, rtol=0)
    assert "The softmax temperature is 1: it was set." in read_report(other).text
    assert "The loss at the top differs from the log loss" in read_report(other).text  # by label smoothing
    assert written()[0] == written(other)[0]


def test_a_threshold_finds_the_same_samples(kindling: Command) -> None:
    two = [*SMOOTH, "--data.num_classes", "2", "--model.threshold", "positive_f1"]
    assert kindling("fit", *two).code == 0
    assert kindling("fit", *two, *RAW).code == 0
    runs = RUN, RUN.with_name("version_1")
    ours, theirs = (trained_model(run / "checkpoints/best.ckpt") for run in runs)
    assert ours.threshold is not None
    assert theirs.threshold is not None
    assert ours.softmax_temperature != 1 == theirs.softmax_temperature
    logit, other = (np.log(each.value / (1 - each.value)) for each in (ours.threshold, theirs.threshold))
    assert logit * ours.softmax_temperature == pytest.approx(other, abs=0.05)  # both lie between the same neighbors
    assert curves(runs[0]) == curves(runs[1])
    tested = [json.loads((run / "test_metrics.json").read_text())["test/f1"] for run in runs]
    assert tested[0] == pytest.approx(tested[1], abs=0.01)


def test_values_out_of_range_are_refused(kindling: Command) -> None:
    result = kindling("fit", *SMOOTH, "--model.softmax_temperature", "0")
    assert result.code == 1
    assert "softmax_temperature must be greater than 0, got 0" in result.err


def test_checkpoints_of_earlier_versions_have_none(kindling: Command, trained: Train) -> None:
    trained(*SMOOTH)
    stored = torch.load(BEST, weights_only=True)
    del stored["softmax_temperature"], stored["hyper_parameters"]["softmax_temperature"]
    torch.save(stored, BEST)
    result = kindling("validate", "--ckpt_path", BEST)
    assert result.code == 0, result.err
    assert trained_model().softmax_temperature == 1


class OwnMetrics(MLPClassifier):
    """Measures the calibration of its probabilities."""

    def metrics(self) -> MetricCollection:
        return MetricCollection({"ece": MulticlassCalibrationError(self.num_classes)})


def test_metrics_of_a_subclass_get_calibrated_logits() -> None:
    data = SyntheticDataModule(num_samples=2000, val_split=400)
    model = OwnMetrics.for_data(data, hidden=(16,), label_smoothing=0.2)
    trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, data)
    logged = trainer.callback_metrics["val/ece"].item()
    logits, labels = outputs_of(model.eval(), "val")
    assert model.softmax_temperature != 1
    expected = multiclass_calibration_error(logits / model.softmax_temperature, labels, 3).item()
    assert logged == pytest.approx(expected, abs=1e-5)
    again = trainer.validate(model, data, verbose=False)[0]
    assert again["val/ece"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_processes_find_the_same_one() -> None:
    results = Ranks("fit", *SMOOTH, "--test_after_fit", "false").wait()
    assert [result.code for result in results] == [0, 0], results[0].err
    model = trained_model()
    assert fit_temperature(*outputs_of(model, "val")) == pytest.approx(model.softmax_temperature, rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_proof")
def test_exported_files_and_the_server_use_it(kindling: Command, trained: Train) -> None:
    trained(*SMOOTH)
    inputs = torch.randn(64, 20)
    model = trained_model()
    with torch.no_grad():
        logits = model(inputs) / model.softmax_temperature
    for format, chosen in FORMATS.items():
        assert kindling("export", "--ckpt_path", RUN, "--format", format).code == 0
        found = chosen.read(RUN / "export" / f"model{chosen.suffix}")(inputs)
        torch.testing.assert_close(found[0], logits.softmax(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[1], logits, atol=1e-4, rtol=1e-4)
    for options in (["--ckpt_path", RUN], ["--ckpt_path", RUN / "export/model.onnx"]):
        with serving(*options) as server:
            answered = server.predict({"inputs": inputs.tolist()})[1]["predictions"]
        chances = [one["probability"] for one in answered]
        assert chances == pytest.approx(logits.softmax(1).amax(1).tolist(), abs=1e-5)


@pytest.mark.slow
def test_an_ensemble_has_one_of_its_own(kindling: Command, trained: Train) -> None:
    for seed, name in enumerate(("one", "two")):
        trained(*SMOOTH, "--seed_everything", seed, "--test_after_fit", "false", "--run_name", name)
    members = ["runs/one/version_0", "runs/two/version_0"]
    command = ("fit", "--model", "EnsembleClassifier", "--model.checkpoints", f"[{', '.join(members)}]", *DATA)
    assert kindling(*command, "--run_name", "soft").code == 0
    model = trained_model()
    parts = [trained_model(Path(member, "checkpoints/best.ckpt")) for member in members]

    def mean(split: str) -> Tensor:
        """Return the logarithm of the mean probability of the members."""
        return torch.stack([outputs_of(each, split)[0].softmax(1) for each in parts]).mean(0).log()

    labels = outputs_of(model, "val")[1]
    assert fit_temperature(mean("val"), labels) == pytest.approx(model.softmax_temperature, rel=1e-4)
    assert model.softmax_temperature < 0.9
    expected = (mean("test") / model.softmax_temperature).softmax(1)
    torch.testing.assert_close(written()[1], expected, atol=1e-5, rtol=1e-4)
    shutil.rmtree("runs/one")
    shutil.rmtree("runs/two")
    assert kindling("validate", "--ckpt_path", RUN).code == 0
    assert kindling("test", "--ckpt_path", RUN).code == 0
    torch.testing.assert_close(written()[1], expected, atol=1e-5, rtol=1e-4)
