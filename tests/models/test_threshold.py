"""The decision threshold of classifiers with two classes."""

import csv
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from servers import serving
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)

from conftest import TINY, Command, Train
from kindling import ClassificationTask, MLPClassifier, SyntheticDataModule, TableDataModule, load
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.torchserve_handler import Handler
from kindling.models.loading import load_model
from kindling.models.metrics import ranking_metrics
from kindling.models.threshold import ThresholdMetric, choose_threshold
from kindling.testing import check_model
from kindling.utils.decision_threshold import DecisionThreshold, predicted_classes
from kindling.utils.text import format_metric
from ranks import Ranks

RUN = Path("runs/shop/version_0")
BEST = RUN / "checkpoints" / "best.ckpt"

Score = Callable[[np.ndarray, np.ndarray], float]  # of labels and predictions, 1 if positive
SCORES: dict[str, Score] = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "f1": lambda labels, predictions: f1_score(labels, predictions, average="macro"),
    "positive_f1": f1_score,
    "mcc": matthews_corrcoef,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 600 rows, of which a fifth is positive."""
    random = np.random.default_rng(0)
    values = random.normal(size=(600, 2))
    bought = random.random(600) < 1 / (1 + np.exp(-2 * values[:, 0] - values[:, 1] + 2))
    path = tmp_path_factory.mktemp("shop") / "shop.csv"
    pd.DataFrame({"a": values[:, 0], "b": values[:, 1], "bought": np.where(bought, "yes", "no")}).to_csv(path)
    return path


@pytest.fixture
def options(shop: Path) -> list[str]:
    few = "--model MLPClassifier --model.hidden [8] --model.optimizer.lr 0.01 --trainer.max_epochs 4".split()
    return [
        *few,
        "--data",
        "TableDataModule",
        "--data.path",
        str(shop),
        "--data.target",
        "bought",
        "--run_name",
        "shop",
    ]


def search(scores: np.ndarray, positive: np.ndarray, metric: str) -> float:
    """Return the best value of a metric for all thresholds that differ."""
    candidates = [*np.unique(scores), *([2.0] if scores.max() < 1 else [])]  # no threshold is above 1
    return max(SCORES[metric](positive, (scores >= each).astype(int)) for each in candidates)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("metric", get_args(ThresholdMetric))
@pytest.mark.filterwarnings("ignore")  # scikit-learn's about predictions of one class
def test_the_threshold_is_the_best_of_all(metric: ThresholdMetric, positive: int) -> None:
    random = np.random.default_rng(0)
    for rows, digits, share in ((40, 1, 0.5), (100, 7, 0.1), (100, 2, 0.9)):  # one digit: many ties
        labels = (random.random(rows) < share).astype(int)
        scores = np.clip(random.normal(0.3 + 0.2 * labels, 0.2), 0, 1).round(digits).astype(np.float32)
        probabilities = torch.from_numpy(np.stack([1 - scores, scores], axis=1))
        found = choose_threshold(probabilities, torch.from_numpy(labels), positive, metric)
        assert found is not None
        truth, chances = (labels == positive).astype(int), probabilities[:, positive].numpy()
        predictions = (predicted_classes(probabilities, found).numpy() == positive).astype(int)
        assert found.score == pytest.approx(SCORES[metric](truth, predictions))
        assert found.score == pytest.approx(search(chances, truth, metric))
        assert len(found.curve) == 101
        grid = (np.arange(0, 101, 4) / 100).astype(np.float32)
        expected = [SCORES[metric](truth, (chances >= threshold).astype(int)) for threshold in grid]
        assert found.curve[::4] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("ja", "nein"), "ja"),
        (("no", "yes"), "yes"),
        (("No", "Si"), "Si"),
        (("non", "oui"), "oui"),
        (("false", "true"), "true"),
        (("0", "1"), "1"),
        (("healthy", "sick"), "sick"),
        (("ill", "well"), "ill"),
        (("fraud", "no fraud"), "fraud"),
        (("churned", "not_churned"), "churned"),
        (("absent", "present"), "present"),
        (("fraud", "genuine"), "fraud"),
        (("cat", "dog"), "dog"),  # not evident: the second one, as in scikit-learn
        (("no", "not sure"), "not sure"),
    ],
)
def test_names_tell_the_positive_class(names: tuple[str, str], positive: str) -> None:
    model = MLPClassifier(num_classes=2, class_names=names, input_shape=(3,), threshold=0.3)
    assert model.threshold is not None
    assert names[model.threshold.positive] == model.positive_class == positive


def test_fit_says_which_class_is_positive(kindling: Command, shop: Path, options: list[str]) -> None:
    frame = pd.read_csv(shop)
    frame.assign(bought=frame["bought"].map({"yes": "ja", "no": "nein"})).to_csv("german.csv", index=False)
    options = ["german.csv" if option == str(shop) else option for option in options]
    result = kindling("fit", *options, "--model.threshold", "positive_f1")
    assert result.code == 0, result.err
    assert "threshold positive_f1: the positive class is ja (or --model.positive_class nein)" in result.out
    assert "predicts ja from a probability of" in result.out
    result = kindling("fit", *options, "--model.threshold", "0.4", "--model.positive_class", "nein")
    assert "the positive class is" not in result.out
    assert "predicts nein from a probability of 0.4" in result.out


def test_ranking_metrics_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 500)
    outputs = torch.from_numpy(random.normal(np.stack([-30 * labels, 30 * labels], 1), 60).round())  # ties, certainty
    for positive in (0, 1):
        metrics = ranking_metrics(positive)
        for start in range(0, 500, 64):
            metrics.update(outputs[start : start + 64], torch.from_numpy(labels)[start : start + 64])
        scores, is_positive = (outputs[:, positive] - outputs[:, 1 - positive]).numpy(), labels == positive
        found = metrics.compute()
        assert float(found["roc_auc"]) == pytest.approx(roc_auc_score(is_positive, scores), abs=1e-6)
        assert float(found["average_precision"]) == pytest.approx(
            average_precision_score(is_positive, scores), abs=1e-6
        )
    half = ranking_metrics(1)
    half.update(outputs.bfloat16(), torch.from_numpy(labels))
    assert float(half.compute()["roc_auc"]) == pytest.approx(
        roc_auc_score(labels, outputs[:, 1] - outputs[:, 0]), abs=0.01
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns about metrics without samples
        assert all(value.isnan() for value in ranking_metrics(1).compute().values())
    one_class = ranking_metrics(1)
    one_class.update(outputs, torch.ones(500, dtype=torch.long))
    assert all(value.isnan() for value in one_class.compute().values())


def test_rounding_changes_no_prediction_and_of_equal_thresholds_the_middle_one_wins() -> None:
    probabilities = torch.tensor([0.1, 0.3, 0.55, 0.95])
    both = torch.stack([1 - probabilities, probabilities], dim=1)
    found = choose_threshold(both, torch.tensor([0, 0, 1, 1]), 1, "accuracy")
    assert found is not None
    assert found.value == pytest.approx((0.3 + 0.55) / 2)
    neighbors = torch.tensor([0.3, torch.nextafter(torch.tensor(0.3), torch.tensor(1.0))])
    found = choose_threshold(torch.stack([1 - neighbors, neighbors], dim=1), torch.tensor([0, 1]), 1, "accuracy")
    assert found is not None
    assert predicted_classes(torch.stack([1 - neighbors, neighbors], dim=1), found).tolist() == [0, 1]
    with_nan = torch.cat([both, torch.full((1, 2), torch.nan)])
    assert choose_threshold(with_nan, torch.tensor([0, 0, 1, 1, 0]), 1, "f1") is not None
    assert choose_threshold(both, torch.ones(4).long(), 1, "f1") is None
    certain = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])  # never positive would be better, but 1 is the limit
    chosen = choose_threshold(certain, torch.tensor([0, 0, 1]), 1, "accuracy")
    assert chosen is not None
    assert chosen.score == pytest.approx(1 / 3)


def classifier_of(checkpoint: Path) -> ClassificationTask:
    model = load_model(checkpoint)
    assert isinstance(model, ClassificationTask)
    return model


def rows_of(run: Path = RUN) -> list[dict[str, str]]:
    with (run / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_is_chosen_on_the_validation_split_and_used_by_every_command(
    kindling: Command, trained: Train, options: list[str], shop: Path
) -> None:
    trained(*options, "--model.threshold", "positive_f1")
    model = classifier_of(BEST)
    assert model.threshold is not None
    data = TableDataModule(path=shop, target="bought")
    data.setup("fit")
    with torch.no_grad():
        chances = model.to_prediction(model(data.val.inputs))[:, 1].numpy()
    labels = data.val.labels.numpy()
    assert model.threshold.score == pytest.approx(search(chances, labels, "positive_f1"))
    at_best = (chances >= model.threshold.value).astype(int)
    assert f1_score(labels, at_best) == pytest.approx(model.threshold.score)
    assert model.threshold.score > f1_score(labels, (chances >= 0.5).astype(int)) + 0.01

    rows = rows_of()
    for row in rows:
        assert row["prediction"] == ("yes" if float(row["yes"]) >= model.threshold.value else "no")
        assert row["probability"] == row[row["prediction"]]
    assert any(row["prediction"] == "yes" and float(row["yes"]) < 0.5 for row in rows)
    truth, predictions = ([row[name] for row in rows] for name in ("label", "prediction"))
    measured = json.loads((RUN / "test_metrics.json").read_text())
    assert measured["test/accuracy"] == pytest.approx(accuracy_score(truth, predictions))
    assert measured["test/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predictions))
    assert measured["test/f1"] == pytest.approx(f1_score(truth, predictions, average="macro"))
    is_positive, scores = [label == "yes" for label in truth], [float(row["yes"]) for row in rows]
    assert measured["test/roc_auc"] == pytest.approx(roc_auc_score(is_positive, scores), abs=1e-6)
    assert measured["test/average_precision"] == pytest.approx(average_precision_score(is_positive, scores), abs=1e-6)

    said = f"predicts yes from a probability of {model.threshold.value:.4g}, the best threshold for positive_f1"
    report = (RUN / "report.html").read_text()
    assert f"The model {said}" in report
    assert "positive_f1 by threshold" in report
    assert f"ROC AUC<b>{format_metric(measured['test/roc_auc'])}</b>" in report
    validated = kindling("validate", "--ckpt_path", RUN)
    assert said in validated.out
    assert f"{balanced_accuracy_score(labels, at_best):.4f}" in validated.out
    predicted = kindling("predict", "--ckpt_path", RUN)
    assert said in predicted.out
    assert rows_of() == rows
    assert kindling("test", "--ckpt_path", RUN).code == 0
    assert json.loads((RUN / "test_metrics.json").read_text()) == measured

    result = kindling("test", "--ckpt_path", RUN, "--model.threshold", "0.9")
    assert "predicts yes from a probability of 0.9\n" in result.out
    at_90 = ["yes" if float(row["yes"]) >= 0.9 else "no" for row in rows]
    assert f"{accuracy_score(truth, at_90):.4f}" in result.out
    assert "test results not saved: --model.threshold differs from the run" in result.out
    assert rows_of() == rows
    assert json.loads((RUN / "test_metrics.json").read_text()) == measured
    assert "from a probability of 0.9" not in (RUN / "report.html").read_text()
    refused = kindling("test", "--ckpt_path", RUN, "--model.threshold", "mcc")
    assert (refused.code, "no decision threshold chosen for mcc" in refused.err) == (1, True)
    other = kindling("validate", "--ckpt_path", RUN, "--model.threshold", "mcc")
    assert f"{search(chances, labels, 'mcc'):.4f}" in other.out


@pytest.mark.slow
@pytest.mark.usefixtures("quick_proof")
def test_it_goes_along_to_python_the_server_and_exported_files(
    kindling: Command, trained: Train, options: list[str], shop: Path
) -> None:
    trained(*options, "--model.threshold", "positive_f1")
    predictor = load(RUN)
    card = predictor.card
    samples = pd.read_csv(shop).drop(columns="bought")
    labels, probabilities = predictor.predict(samples)
    assert card.threshold is not None
    expected = np.where(probabilities[:, 1] >= card.threshold, "yes", "no").tolist()
    assert labels == expected
    assert labels != np.array(card.classes)[probabilities.argmax(1)].tolist()
    rows = samples.iloc[:50].astype(object).where(samples.notna(), None).to_dict("records")
    with serving("--ckpt_path", RUN) as server:
        told = server.ask("GET", "/info")[1]
        answered = server.predict({"rows": rows}, "/predict?top=1")[1]["predictions"]
    assert (told["threshold"], told["positive_class"], told["threshold_metric"]) == (
        card.threshold,
        "yes",
        "positive_f1",
    )
    assert [one["class"] for one in answered] == expected[:50]
    chances = [row[card.classes.index(label)] for row, label in zip(probabilities, labels, strict=True)]
    assert [one["probability"] for one in answered] == pytest.approx(chances[:50], abs=1e-5)
    for format in ("onnx", "torchserve"):
        assert kindling("export", "--ckpt_path", RUN, "--format", format).code == 0
    exported = load_onnx(RUN / "export" / "model.onnx")
    assert exported.card == card
    assert exported.predict(samples).labels == expected
    with zipfile.ZipFile(RUN / "export" / "model.mar") as archive:
        archive.extractall("model")
    handler = Handler()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": "model"}))
    inputs = predictor.inputs(samples).tolist()
    [response] = handler.handle([{"body": {"inputs": inputs}}], None)
    assert [one["class"] for one in response["predictions"]] == expected
    restored = MLPClassifier.load_from_checkpoint(BEST, weights_only=True)
    assert restored.threshold == classifier_of(BEST).threshold


def test_the_first_class_can_be_the_positive_one(kindling: Command, trained: Train, options: list[str]) -> None:
    trained(*options, "--model.threshold", "0.7", "--model.positive_class", "no")
    assert all(row["prediction"] == ("no" if float(row["no"]) >= 0.7 else "yes") for row in rows_of())
    assert load(RUN).card.positive_class == "no"
    assert "decision_threshold" not in torch.load(BEST, weights_only=True)  # an argument


def test_a_class_can_be_a_number(kindling: Command, trained: Train) -> None:
    trained(*TINY, "--data.num_classes", "2", "--model.threshold", "0.7", "--model.positive_class", "0")
    rows = rows_of(Path("runs/tiny/version_0"))
    assert all(row["prediction"] == ("0" if float(row["0"]) >= 0.7 else "1") for row in rows)


def check_is_best(table: Path, metric: str) -> None:
    """Check that no other threshold is better for the validation rows of a table."""
    model = classifier_of(BEST)
    data = TableDataModule(path=table, target="bought")
    data.setup("fit")
    with torch.no_grad():
        chances = model.to_prediction(model(data.val.inputs))[:, 1].numpy()
    assert model.threshold is not None
    assert model.threshold.score == pytest.approx(search(chances, data.val.labels.numpy(), metric))


@pytest.mark.slow
def test_processes_choose_the_same_one(options: list[str], shop: Path) -> None:
    results = Ranks("fit", *options, "--model.threshold", "positive_f1", "--test_after_fit", "false").wait()
    assert [result.code for result in results] == [0, 0], results[0].err
    check_is_best(shop, "positive_f1")


@pytest.mark.slow
def test_a_killed_run_resumes_with_it() -> None:
    data = SyntheticDataModule(num_samples=300, num_classes=2, batch_size=16)
    check_model(MLPClassifier, data, hidden=(16,), threshold="f1", formats=["torch_export"])


def test_averaged_weights_are_what_it_is_chosen_for(trained: Train, options: list[str], shop: Path) -> None:
    trained(*options, "--model.threshold", "balanced_accuracy", "--averaging", "EMA")
    check_is_best(shop, "balanced_accuracy")


def test_an_ensemble_chooses_its_own(kindling: Command, trained: Train, options: list[str], shop: Path) -> None:
    trained(*options, "--model.threshold", "positive_f1")
    data = ("--data", "TableDataModule", "--data.path", shop, "--data.target", "bought", "--run_name", "both")
    members = ("--model", "EnsembleClassifier", "--model.checkpoints", f"[{RUN}, {RUN}]")
    assert kindling("fit", *members, *data, "--model.threshold", "positive_f1").code == 0
    shutil.rmtree(RUN)
    ensemble = classifier_of(Path("runs/both/version_0/checkpoints/best.ckpt"))
    assert ensemble.threshold is not None
    assert all(
        row["prediction"] == ("yes" if float(row["yes"]) >= ensemble.threshold.value else "no")
        for row in rows_of(Path("runs/both/version_0"))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold must be a probability from 0 to 1, got 1.5"),
        (
            {"threshold": "recall"},
            "threshold must be from 0 to 1, or accuracy, balanced_accuracy, f1, positive_f1, mcc",
        ),
        ({"threshold": "positive_f2"}, "got positive_f2: did you mean positive_f1?"),
        ({"threshold": "f1", "positive_class": "maybe"}, "positive_class must be no or yes, got maybe"),
        ({"positive_class": "maybe"}, "positive_class must be no or yes, got maybe"),
        ({"positive_class": "1", "num_classes": 3, "class_names": ()}, "positive_class 1 needs two classes"),
        ({"threshold": 0.5, "num_classes": 3, "class_names": ()}, "threshold 0.5 needs two classes, but there are 3"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    known: dict[str, Any] = {"num_classes": 2, "class_names": ("no", "yes"), "input_shape": (2,)}
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        MLPClassifier(**known | arguments)


def test_without_a_threshold_average_precision_is_that_of_the_positive_class() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3]]).log()
    for number, positive in enumerate(("no", "yes")):
        options: dict[str, Any] = {"num_classes": 2, "class_names": ("no", "yes"), "input_shape": (2,)}
        metrics = MLPClassifier(**options, positive_class=positive).metrics_of("test")
        metrics.update(logits, labels)
        expected = average_precision_score(labels == number, logits.exp()[:, number])
        assert float(metrics.compute()["average_precision"]) == pytest.approx(expected)


def test_without_validation_it_is_refused_before_training(kindling: Command, options: list[str]) -> None:
    result = kindling("fit", *options, "--model.threshold", "f1", "--trainer.limit_val_batches", "0")
    assert (result.code, "--model.threshold f1 is chosen on the validation split" in result.err) == (1, True)
    assert not RUN.exists()
    assert kindling("fit", *options, "--model.threshold", "f1", "--find_lr").code == 0  # without validation


def test_a_modified_threshold_is_refused(kindling: Command, trained: Train, options: list[str]) -> None:
    trained(*options, "--model.threshold", "positive_f1")
    stored = torch.load(BEST, weights_only=True)
    whole = DecisionThreshold.from_dict(stored["decision_threshold"]).as_dict()
    for change in ({"value": 2.0}, {"positive": 7}):
        torch.save(stored | {"decision_threshold": whole | change}, "changed.ckpt")
        result = kindling("export", "--ckpt_path", "changed.ckpt")
        assert result.code == 1, change
        assert result.err.count("\n") == 1, result.err
