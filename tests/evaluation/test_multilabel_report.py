"""The report of a multi-label classifier, and what it leaves for TensorBoard, compared with scikit-learn and SciPy."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from labels_data import COLORS, ColorsDataModule
from report_reader import read
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Command, Train
from kindling.evaluation.multilabel import MultiLabelPredictions, multilabel_intervals

RUN = Path("runs/colors/version_0")
FIT = (
    "--model CNNMultiLabelClassifier --model.channels [4] --model.hidden 8 --model.optimizer.lr 0.01 "
    "--trainer.max_epochs 2 --run_name colors --data labels_data.ColorsDataModule"
).split()


def written() -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(RUN / "predictions.csv", keep_default_na=False)
    has = [[name in label.split("|") for name in COLORS] for label in table.label]
    return np.array(has), table[[*COLORS]].to_numpy()


def test_the_table_of_classes_agrees_with_scikit_learn(trained: Train) -> None:
    trained(*FIT)
    page, (has, probabilities) = read(RUN), written()
    header, *rows = page.tables["Metrics per class"]
    assert header == ["class", "samples", "precision", "recall", "F1", "average precision"]
    scores = [
        score(has, probabilities >= 0.5, average=None, zero_division=np.nan)
        for score in (precision_score, recall_score, f1_score)
    ]
    scores.append(average_precision_score(has, probabilities, average=None))
    for row, name, samples, *expected in zip(rows, COLORS, has.sum(0), *scores, strict=True):
        assert row[:2] == [name, str(samples)]
        assert row[2:] == ["n/a" if np.isnan(value) else f"{value:.1%}" for value in expected]
    metrics = json.loads((RUN / "test_metrics.json").read_text())
    cards = dict(re.findall(r'class="card">([^<]+)<b>([\d.]+)</b>', (RUN / "report.html").read_text()))
    assert cards == {
        "loss": f"{metrics['test/loss']:.4f}",
        "mean average precision": f"{metrics['test/map']:.4f}",
        "macro F1": f"{metrics['test/f1']:.4f}",
    }
    all_correct = ((probabilities >= 0.5) == has).all(1).mean()
    assert f"predicted correctly for {all_correct:.1%} of the samples" in page.text


def test_the_most_certain_mistakes_are_shown(trained: Train) -> None:
    trained(*FIT)
    page, (has, probabilities) = read(RUN), written()
    surprise = np.where((probabilities >= 0.5) != has, np.abs(probabilities - has), 0).max(1)
    worst = np.argsort(-surprise, kind="stable")[:24]
    assert len(page.pictures) == 24
    captions = [re.sub(r"^.*row ", "", caption) for caption in page.captions[:24]]
    np.testing.assert_allclose(surprise[[*map(int, captions)]], surprise[worst], atol=2e-5)
    first = int(captions[0])
    label = ", ".join(name for name, own in zip(COLORS, has[first], strict=True) if own) or "none"
    assert page.captions[0].startswith(f"{label} → ")
    wrong = (probabilities >= 0.5) != has
    rows = [int(caption) for caption in captions[:12]]
    expected = [np.argsort(-np.abs(probabilities[row] - 0.5) * wrong[row])[: wrong[row].sum()] for row in rows]
    maps = [f"heat map: orange for {[*COLORS][name]}, blue against it" for names in expected for name in names]
    assert page.heat_maps == maps
    named = re.findall(r"<span><img[^>]*>([^<]+)</span>", (RUN / "report.html").read_text())
    assert named[: len(maps)] == [[*COLORS][name] for names in expected for name in names]


def test_intervals_agree_with_scipy() -> None:
    random = np.random.default_rng(1)
    has = random.random((150, 3)) < [0.5, 0.4, 0.2]
    probabilities = torch.from_numpy(random.random((150, 3)) * 0.7 + 0.3 * has).float()
    found = multilabel_intervals(MultiLabelPredictions(probabilities, torch.from_numpy(has).float()), torch.rand(150))

    def metric(index: np.ndarray) -> float:
        rows = index.astype(int)
        return float(average_precision_score(has[rows], probabilities.numpy()[rows]))

    expected = bootstrap((np.arange(150),), metric, n_resamples=300, method="percentile", rng=0, vectorized=False)
    interval = expected.confidence_interval
    assert found["map"] == pytest.approx((interval.low, interval.high), abs=0.03)
    assert found["f1"][0] < f1_score(has, probabilities.numpy() >= 0.5, average="macro") < found["f1"][1]


@pytest.mark.filterwarnings("error")
def test_intervals_of_tied_probabilities_and_of_resamples_without_a_class() -> None:
    has, probabilities = np.array([0, 0, 1, 1, 0]), np.array([1, 1, 1, 1, 0.2])
    predictions = MultiLabelPredictions(torch.from_numpy(probabilities)[:, None], torch.from_numpy(has)[:, None])
    random, resampled = np.random.default_rng(1), []
    for _ in range(2000):
        rows = random.integers(5, size=5)
        if has[rows].any():
            resampled.append(average_precision_score(has[rows], probabilities[rows]))
    low, high = np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled) + 0.5  # 0.5 is that of the five samples
    found = multilabel_intervals(predictions, torch.rand(5))["map"]
    assert found == pytest.approx((max(low, 0), min(high, 1)), abs=0.05)
    nothing = MultiLabelPredictions(torch.rand(5, 2), torch.zeros(5, 2))
    assert np.isnan(multilabel_intervals(nothing, torch.rand(5))["map"]).all()


def test_a_model_that_diverged_has_a_report(kindling: Command) -> None:
    predictions = MultiLabelPredictions(torch.full((4, 2), torch.nan), torch.tensor([[1.0, 0]] * 4))
    assert predictions.worst(3).tolist() == [0, 1, 2]
    assert predictions.scores[0].isnan().tolist() == [True, False, False, True]


@pytest.mark.usefixtures("pictures")
def test_tensorboard_has_curves_and_pictures(trained: Train) -> None:
    trained(*FIT)
    size = {"images": 0, "tensors": 0, "scalars": 0}
    train, test = (EventAccumulator(str(RUN / split), size).Reload() for split in ("train", "test"))
    tags = EventAccumulator(str(RUN / "val"), size).Reload().Tags()
    assert {f"precision-recall/{name}" for name in COLORS} <= {*tags["tensors"]}
    assert "pictures/worst predictions" in tags["images"]
    assert "pictures/training samples" in train.Tags()["images"]
    metrics = json.loads((RUN / "test_metrics.json").read_text())
    assert test.Scalars("result/test_map")[-1].value == pytest.approx(metrics["test/map"], rel=1e-5)
    (file,) = (RUN / "test").glob("*/last_hidden_layer/metadata.tsv")
    points = pd.read_csv(file, sep="\t", keep_default_na=False)
    assert ([*points], len(points)) == (["label", "prediction", "result"], len(ColorsDataModule().load("test")[1]))
