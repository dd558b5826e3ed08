"""Files and memory of a classifier with hundreds to 100,000 classes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from report_reader import read
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import helpers
from conftest import Command
from kindling import MLPClassifier, Predictor
from kindling.deploy.model_card import ModelCard
from kindling.deploy.served_models import ServedModel
from kindling.evaluation.multilabel import MultiLabelPredictions, multilabel_intervals, names_of_classes
from kindling.models.metrics import classification_metrics
from ranks import Ranks

RUN = Path("runs/many/version_0")
FIT = (
    "fit --model MLPClassifier --model.hidden [32] --data helpers.PrototypeDataModule --trainer.max_epochs 4 "
    "--model.optimizer.lr 0.02 --run_name many"
).split()
TOP = [f"{column}_{place}" for place in range(1, 6) for column in ("class", "probability")]


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer samples for the confidence intervals, which other tests check."""
    monkeypatch.setattr("kindling.evaluation.statistics.RESAMPLES", 20)
    monkeypatch.setattr("kindling.evaluation.multilabel.RESAMPLES", 20)


def probabilities(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities of the best checkpoint for the test samples, and their labels."""
    data = helpers.PrototypeDataModule(classes)
    data.setup("test")
    with torch.no_grad():
        return MLPClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")(data.test.inputs).softmax(
            1
        ), data.test.labels


@pytest.mark.usefixtures("pictures", "few_resamples")
def test_1200_classes_leave_small_files_with_exact_metrics(kindling: Command) -> None:
    result = kindling(*FIT, "--data.num_classes", "1200")
    assert result.code == 0, result.err
    table = pd.read_csv(RUN / "predictions.csv")
    assert [*table] == ["row", "label", "prediction", "probability", *TOP]
    assert len(table) == 4800
    assert (RUN / "predictions.csv").stat().st_size < 2e6
    assert (RUN / "report.html").stat().st_size < 2e6
    figures = json.loads((RUN / "test_metrics.json").read_text())
    labels, predictions = table["label"], table["prediction"]
    assert figures["test/accuracy"] == pytest.approx(accuracy_score(labels, predictions), abs=1e-6)
    assert figures["test/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions), abs=1e-6)
    assert figures["test/f1"] == pytest.approx(f1_score(labels, predictions, average="macro"), abs=1e-6)
    assert 0.1 < figures["test/accuracy"] < 0.95
    known, truth = probabilities(1200)
    temperature = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["softmax_temperature"]
    best, classes = (known.log() / temperature).softmax(dim=1).topk(5, dim=1)
    np.testing.assert_allclose(table[TOP[1::2]], best, atol=1e-5)
    names = np.array([f"class {label}" for label in range(1200)])
    assert (table[TOP[::2]].to_numpy() == names[classes.numpy()]).mean() > 0.9999  # but for ties
    assert figures["test/loss"] == pytest.approx(torch.nn.functional.nll_loss(known.log(), truth).item(), abs=1e-5)

    page = read(RUN)
    header, *rows = page.tables["Metrics per class"]
    assert (header[0], len(rows)) == ("class", 50)
    scores = dict(
        zip(
            names,
            zip(*precision_recall_fscore_support(labels, predictions, labels=names, zero_division=0)[:3], strict=True),
            strict=True,
        )
    )
    for name, samples, *shares in rows:
        assert int(samples) == 4
        assert [share.replace("n/a", "0.0%") for share in shares] == [f"{share:.1%}" for share in scores[name]]
    lowest = sorted(scores[name][2] for name in names)[:50]
    assert [scores[row[0]][2] for row in rows] == pytest.approx(lowest)
    assert "The 50 classes with the lowest F1 of 1,200 with test samples" in page.text
    pairs = Counter(zip(labels, predictions, strict=True))
    listed = {
        (label, prediction): int(samples) for label, prediction, samples, _ in page.tables["Confusion matrix"][1:]
    }
    assert listed == {pair: pairs[pair] for pair in listed}
    wrong = [count for (label, prediction), count in pairs.items() if label != prediction]
    assert sorted(listed.values()) == sorted(wrong)[-20:]

    events = EventAccumulator(str(RUN / "test"), size_guidance={"images": 0, "tensors": 0}).Reload()
    assert not events.Tags()["images"]
    assert not any("precision-recall" in tag for tag in events.Tags()["tensors"])
    confused = make_ndarray(events.Tensors("confusions/text_summary")[-1].tensor_proto).item().decode()
    assert confused.startswith("| label | prediction | samples | of the label |")
    assert len(confused.splitlines()) == 2 + 30


@pytest.mark.usefixtures("few_resamples")
def test_predictions_of_many_classes_are_those_of_the_test(kindling: Command) -> None:
    assert kindling(*FIT, "--trainer.max_epochs", "1", "--model.softmax_temperature", "1").code == 0
    tested = pd.read_csv(RUN / "predictions.csv")
    assert kindling("predict", "--ckpt_path", "best").code == 0
    pd.testing.assert_frame_equal(pd.read_csv(RUN / "predictions.csv"), tested, atol=1e-5)
    for command in ("test", "predict"):
        assert kindling(command, "--ckpt_path", "best", "--all_probabilities").code == 0
        table = pd.read_csv(RUN / "predictions.csv")
        assert [*table] == ["row", "label", "prediction", "probability", *(f"class {label}" for label in range(300))]
        np.testing.assert_allclose(table.iloc[:, 4:], probabilities(300)[0], atol=1e-5)
        pd.testing.assert_frame_equal(table.iloc[:, :4], tested.iloc[:, :4], atol=1e-5)


@pytest.mark.usefixtures("few_resamples")
def test_up_to_200_classes_have_all_probabilities(kindling: Command) -> None:
    assert kindling(*FIT, "--data.num_classes", "200", "--trainer.max_epochs", "1").code == 0
    assert [*pd.read_csv(RUN / "predictions.csv")][4:] == [f"class {label}" for label in range(200)]
    assert len(read(RUN).tables["Metrics per class"]) == 201


def test_metrics_keep_three_numbers_per_class() -> None:
    random = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(500, (600,), generator=random), torch.randn(600, 500, generator=random)
    logits[range(600), labels] += 2.5
    logits[5] = torch.nan
    found = classification_metrics(500)
    for part in range(0, 600, 200):
        found.update(logits[part : part + 200], labels[part : part + 200])
    states = [state for metric in found.values(copy_state=False) for state in metric.metric_state.values()]
    assert {state.numel() for state in states if isinstance(state, torch.Tensor)} == {3 * 501}
    classes, truth = logits.nan_to_num(-100.0).argmax(1).numpy(), labels.numpy()
    classes[5] = 500
    expected = {
        "accuracy": accuracy_score(truth, classes),
        "balanced_accuracy": balanced_accuracy_score(truth, classes),
        "f1": f1_score(truth, classes, labels=range(500), average=None, zero_division=np.nan),
    }
    expected["f1"] = np.nanmean(expected["f1"])
    assert {name: float(value) for name, value in found.compute().items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_two_processes_list_the_same_classes_as_one(kindling: Command) -> None:
    results = Ranks(*FIT, world_size=2).wait()
    assert [(result.code, result.err) for result in results] == [(0, "")] * 2
    tested = pd.read_csv(RUN / "predictions.csv")
    assert kindling("test", "--ckpt_path", "best").code == 0
    pd.testing.assert_frame_equal(pd.read_csv(RUN / "predictions.csv"), tested, atol=1e-5)


def write_table(classes: int, rows: int) -> None:
    random = np.random.default_rng(0)
    centers, labels = random.normal(size=(classes, 8)), np.arange(rows) % classes
    frame = pd.DataFrame(centers[labels] + 0.3 * random.normal(size=(rows, 8)), columns=[*"abcdefgh"])
    frame.assign(kind=[f"kind {label}" for label in labels]).to_csv("kinds.csv", index=False)


TABLE = (
    "--model MLPClassifier --model.hidden [32] --data TableDataModule --data.path kinds.csv --data.target kind".split()
)


@pytest.mark.slow
def test_a_table_may_have_more_than_a_thousand_classes(kindling: Command) -> None:
    write_table(1100, 6600)
    result = kindling("fit", *TABLE, "--run_name", "many", "--trainer.max_epochs", "1")
    assert result.code == 1
    assert "if they are classes, add --data.task classification" in result.err
    result = kindling("fit", *TABLE, "--run_name", "many", "--trainer.max_epochs", "1", "--data.task", "classification")
    assert result.code == 0, result.err
    assert "Column importance" in read(RUN).text


@pytest.mark.slow
def test_folds_of_many_classes_have_one_report(kindling: Command) -> None:
    write_table(250, 1500)
    result = kindling("repeat", "--folds", "3", *TABLE, "--run_name", "many", "--trainer.max_epochs", "2")
    assert result.code == 0, result.err
    repeat = Path("runs/many/repeat_0")
    table = pd.read_csv(repeat / "predictions.csv")
    assert [*table][-len(TOP) - 1 :] == [*TOP, "fold"]
    text = read(repeat).text
    accuracy = accuracy_score(table["label"], table["prediction"])
    assert f"{accuracy:.2%}" in text
    assert f"{f1_score(table['label'], table['prediction'], average='macro'):.2%}" in text
    losses = [
        json.loads((repeat / f"fold_{fold}/version_0/test_metrics.json").read_text())["test/loss"] for fold in (1, 2, 3)
    ]
    assert f"{np.mean(losses):.4f}" in text  # folds of equal size
    assert (repeat / "report.html").stat().st_size < 2e6


@pytest.mark.slow
def test_100000_classes_need_little_memory(folder: Path) -> None:
    """The last layer has 3.3 million parameters; a confusion matrix would have 10 billion entries."""
    code = (
        "import resource, sys; from pathlib import Path; from kindling.cli import main; code = main(sys.argv[1:]); "
        "status = Path('/proc/self/status')\n"  # `getrusage` counts the memory of the process that started this one
        "if status.exists(): print(status.read_text().partition('VmHWM:')[2].split()[0])\n"
        "else: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "raise SystemExit(code)"
    )

    def run(*options: str) -> int:
        environment = os.environ | {"PYTHONPATH": str(Path(helpers.__file__).parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)

    sizes = ["--data.num_classes", "100000", "--data.per_class", "1", "--data.eval_batch_size", "64"]
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "50", "--trainer.limit_val_batches", "0.2"]
    peaks = [run(*FIT, *sizes, *limits, "--trainer.limit_test_batches", "200")]
    assert len(pd.read_csv(RUN / "predictions.csv")) == 200 * 64
    peaks.append(run("predict", "--ckpt_path", "best", "--trainer.limit_predict_batches", "200"))
    peaks.append(run("export", "--ckpt_path", "best", "--format", "torch_export"))
    assert max(peaks) < 2.5e9
    assert (RUN / "predictions.csv").stat().st_size < 3e6
    assert (RUN / "report.html").stat().st_size < 2e6


def test_names_of_chosen_classes() -> None:
    chosen = torch.tensor([[True, False, True], [False, False, False]])
    assert names_of_classes(chosen, ["a", "b", "c"], "|") == ["a|c", ""]


def test_intervals_of_many_classes_per_sample_contain_their_metrics() -> None:
    random = torch.Generator().manual_seed(0)
    targets = (torch.rand(300, 400, generator=random) < 0.05).float()
    scores = torch.rand(300, 400, generator=random) * 0.6 + 0.4 * targets
    predictions = MultiLabelPredictions(scores, targets)
    found = multilabel_intervals(predictions, torch.rand(300, generator=random))
    f1 = f1_score(targets, scores >= 0.5, average="macro", zero_division=0)
    low, high = found["f1"]
    assert low < f1 < high < low + 0.05
    low, high = found["map"]
    assert low < predictions.scores[:, 3].nanmean() < high < low + 0.1


@pytest.mark.usefixtures("few_resamples")
def test_many_classes_per_sample_leave_small_files(kindling: Command) -> None:
    options = "--model MLPMultiLabelClassifier --model.hidden [] --data helpers.TagsDataModule --run_name many"
    assert kindling("fit", *options.split(), "--model.optimizer.lr", "0.05", "--trainer.max_epochs", "8").code == 0
    table = pd.read_csv(RUN / "predictions.csv", keep_default_na=False)
    assert [*table] == ["row", "label", "prediction", *TOP]
    sure = table[TOP[1::2]].astype(float) >= 0.5
    for predicted, names, chosen in zip(table["prediction"], table[TOP[::2]].to_numpy(), sure.to_numpy(), strict=True):
        assert {*names[chosen]} <= {*predicted.split("|")}
    assert sure.to_numpy().any()
    header, *rows = read(RUN).tables["Metrics per class"]
    assert (header[-1], len(rows)) == ("average precision", 50)
    shares = [float(row[-1].rstrip("%")) for row in rows]
    assert shares == sorted(shares)
    assert kindling("predict", "--ckpt_path", "best", "--all_probabilities").code == 0
    assert len(pd.read_csv(RUN / "predictions.csv").columns) == 3 + 300


def test_the_server_limits_the_probabilities_of_a_request() -> None:
    metrics = pytest.importorskip("kindling.deploy.metrics").Metrics()
    sizes = {}
    for classes in (2000, 100_000):
        card = ModelCard("Many", tuple(map(str, range(classes))), (2,))
        sizes[classes] = ServedModel("m", Predictor(torch.nn.Identity(), card), metrics).current.max_samples
    assert sizes == {2000: 4096, 100_000: 83}
