import base64
import csv
import io
import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from report_reader import read
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, classification_report, confusion_matrix, f1_score, recall_score
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from conftest import TINY, Command, Train
from helpers import AWKWARD
from kindling import MLPClassifier, MNISTDataModule, SyntheticDataModule
from kindling.evaluation.predictions import ConfusionCounts, Predictions
from kindling.evaluation.report.confusion_matrix import confusion_section
from kindling.evaluation.report.page import rows_to_compare
from kindling.evaluation.result_files import name_of_data
from kindling.evaluation.statistics import bootstrap_mean, bootstrap_scores, calibration, wilson
from kindling.training import TestOutputCollector
from kindling.utils.text import format_metric

RUN = Path("runs/tiny/version_0")


def written(run: Path = RUN) -> tuple[list[dict[str, str]], Tensor]:
    """Return the rows of predictions.csv and their probabilities."""
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    names = list(table[0])[4:]
    return table, torch.tensor([[float(row[name] or "nan") for name in names] for row in table])


def random_predictions(samples: int, classes: int, skill: float = 2.0) -> Predictions:
    random = torch.Generator().manual_seed(3)
    labels = torch.randint(classes, (samples,), generator=random)
    logits = torch.randn(samples, classes, generator=random)
    logits[torch.arange(samples), labels] += skill
    probabilities = logits.softmax(dim=1)
    return Predictions(probabilities, labels, classes)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_test_writes_metrics_predictions_and_a_report(kindling: Command, command: str) -> None:
    result = kindling("fit", *TINY)
    if command == "test":
        for name in ("report.html", "predictions.csv"):
            (RUN / name).unlink()
        result = kindling("test", "--ckpt_path", "best")
    assert result.code == 0, result.err
    assert f"report: {RUN / 'report.html'}" in result.out.splitlines()
    data = SyntheticDataModule(num_samples=300)
    data.setup("test")
    model = MLPClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    with torch.no_grad():
        probabilities = model.to_prediction(model(data.test.inputs))
    table, numbers = written()
    assert list(table[0]) == ["row", "label", "prediction", "probability", "0", "1", "2"]
    assert [int(row["row"]) for row in table] == list(range(60))
    assert [int(row["label"]) for row in table] == data.test.labels.tolist()
    assert [int(row["prediction"]) for row in table] == probabilities.argmax(dim=1).tolist()
    assert [float(row["probability"]) for row in table] == pytest.approx(probabilities.amax(1).tolist(), abs=1e-5)
    torch.testing.assert_close(numbers, probabilities, atol=1e-5, rtol=1e-4)
    page = read(RUN)
    figures = json.loads((RUN / "test_metrics.json").read_text())
    for name in ("accuracy", "balanced_accuracy", "f1"):
        assert f"{figures[f'test/{name}']:.2%}" in page.text
    assert f"{figures['test/loss']:.4f}" in page.text
    assert (RUN / "config.yaml").read_text() in page.text


BACKBONES = {
    "no gradients": """
        with torch.no_grad():
            return images.mean((2, 3))
""",
    "an error": """
        if torch.is_grad_enabled() and not self.training:
            raise RuntimeError("this operator has no backward pass\\nat line 7")
        return images.mean((2, 3))
""",
}
PLUGIN = """
import torch
from kindling.models import ClassificationTask

class Frozen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def features(self, images):BODY
    def forward(self, images):
        return self.head(self.features(images))

class FrozenClassifier(ClassificationTask):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.network = Frozen()
"""


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_without_heat_maps_has_a_report(kindling: Command, backbone: str) -> None:
    Path("frozen.py").write_text(PLUGIN.replace("BODY", BACKBONES[backbone]))
    for number in range(40):
        path = Path("photos", ("dark", "light")[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 40 + number).convert("RGB").save(path)
    options = "--plugin frozen.py --model frozen.FrozenClassifier --data ImageFolderDataModule --data.data_dir photos"
    result = kindling("fit", *options.split(), "--trainer.max_epochs", 1, "--run_name", "tiny")
    assert result.code == 0, result.err
    assert read(RUN).heat_maps == []
    line = "the report has no heat maps: this operator has no backward pass"
    assert [each for each in result.err.splitlines() if "heat maps" in each] == [line] * (backbone == "an error")


def test_the_tables_of_classes_agree_with_scikit_learn(trained: Train) -> None:
    trained(*TINY)
    table, _ = written()
    labels, predictions = ([row[name] for row in table] for name in ("label", "prediction"))
    expected = classification_report(labels, predictions, output_dict=True)
    header, *rows = read(RUN).tables["Metrics per class"]
    assert header == ["class", "samples", "precision", "recall", "F1"]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    for name, samples, *scores in rows:
        assert int(samples) == expected[name]["support"]
        assert scores == [f"{expected[name][score]:.1%}" for score in ("precision", "recall", "f1-score")]
    counts = [[int(cell or 0) for cell in row[1:]] for row in read(RUN).tables["Confusion matrix"][1:]]
    assert counts == confusion_matrix(labels, predictions).tolist()


@pytest.mark.slow
def test_many_classes_have_a_list_of_confusions(kindling: Command) -> None:
    many = ["--data.num_classes", "25", "--data.num_samples", "2000"]
    assert kindling("fit", *TINY, *many).code == 0
    table, _ = written()
    pairs = [(row["label"], row["prediction"]) for row in table if row["label"] != row["prediction"]]
    header, *rows = read(RUN).tables["Confusion matrix"]
    assert header == ["label", "prediction", "samples", "of the label"]
    listed = {(label, prediction): int(samples) for label, prediction, samples, _ in rows}
    assert len(listed) == 20
    assert listed == {pair: pairs.count(pair) for pair in listed}
    assert min(listed.values()) >= max(pairs.count(pair) for pair in set(pairs) - set(listed))
    assert len(read(RUN).tables["Metrics per class"]) == 1 + 25


def test_the_accuracys_interval_is_wilsons() -> None:
    for right, samples in ((0, 7), (7, 7), (55, 60), (9912, 10000)):
        expected = binomtest(right, samples).proportion_ci(method="wilson")
        assert wilson(right, samples) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_bootstrap_intervals_equal_those_of_resampled_predictions() -> None:
    """Compared with scores, by their definitions, of explicitly resampled predictions."""
    predictions, losses = random_predictions(400, 4), torch.rand(400, generator=torch.Generator().manual_seed(1))
    labels, guesses, random = predictions.labels.numpy(), predictions.classes.numpy(), np.random.default_rng(7)
    scores = []
    for _ in range(1000):
        drawn = random.integers(400, size=400)
        label, guess = labels[drawn], guesses[drawn]
        recall = [(guess[label == name] == name).mean() for name in range(4)]
        precision = [(label[guess == name] == name).mean() for name in range(4)]
        f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
        scores.append((np.mean(recall), np.mean(f1), losses[drawn].numpy().mean()))
    expected = np.quantile(np.array(scores), [0.025, 0.975], axis=0).T
    found = [*bootstrap_scores(predictions.confusions, predictions.num_classes), bootstrap_mean(losses)]
    np.testing.assert_allclose(found, expected, atol=0.012)  # an interval is 0.09 wide


def test_intervals_contain_their_metric_with_a_thousand_classes() -> None:
    predictions = random_predictions(8000, 1000, skill=4.0)
    labels, guesses = predictions.labels.numpy(), predictions.classes.numpy()
    (low, high), (f1_low, f1_high) = bootstrap_scores(predictions.confusions, predictions.num_classes)
    assert low < balanced_accuracy_score(labels, guesses) < high < low + 0.04
    assert f1_low < f1_score(labels, guesses, average="macro") < f1_high < f1_low + 0.04


def test_the_calibration_error_agrees_with_torchmetrics() -> None:
    for skill in (0.5, 3.0):
        predictions = random_predictions(3000, 5, skill)
        expected = MulticlassCalibrationError(5, n_bins=15, norm="l1")(predictions.probabilities, predictions.labels)
        assert calibration(predictions).error == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.slow
def test_the_loss_per_sample_is_that_of_the_model(kindling: Command) -> None:
    """Smoothed and weighted: the test loss lies within its interval, the plain loss far outside."""
    kindling("fit", *TINY, "--model.label_smoothing", "0.6", "--data.num_samples", "1500")
    loss = json.loads((RUN / "test_metrics.json").read_text())["test/loss"]
    found = re.search(r"loss\d\.\d{4}(\d\.\d{4}) to (\d\.\d{4})", read(RUN).text)
    assert found
    low, high = map(float, found.groups())
    table, probabilities = written()
    plain = -probabilities[range(len(table)), [int(row["label"]) for row in table]].log().mean()
    assert low < loss < high < low + 0.1
    assert not low < plain < high


def test_the_worst_rows_are_shown_with_their_features(trained: Train) -> None:
    trained(*TINY)
    table, probabilities = written()
    of_label = {
        row["row"]: probabilities[number, int(row["label"])].item()
        for number, row in enumerate(table)
        if row["label"] != row["prediction"]
    }
    header, *rows = read(RUN).tables["Worst predictions"]
    assert header == ["row", "label", "prediction", "probability", *(f"feature {number}" for number in range(20))]
    assert len(of_label) > 5
    assert [row[0] for row in rows] == sorted(of_label, key=of_label.__getitem__)[:24]
    data = SyntheticDataModule(num_samples=300)
    data.setup("test")
    for name, label, prediction, probability, *features in rows:
        told = table[int(name)]
        assert (label, prediction) == (told["label"], told["prediction"])
        assert probability == f"{float(told['probability']):.1%}"
        assert [float(value) for value in features] == pytest.approx(data.test.inputs[int(name)].tolist(), abs=1e-4)


@pytest.mark.slow
def test_the_worst_images_are_shown(kindling: Command, mnist: Path) -> None:
    options = f"--model MLPClassifier --data MNISTDataModule --data.data_dir {mnist} --data.val_split 40"
    assert kindling("fit", *options.split(), *TINY[-4:]).code == 0
    table, probabilities = written()
    wrong = [number for number, row in enumerate(table) if row["label"] != row["prediction"]]
    worst = sorted(wrong, key=lambda number: probabilities[number, int(table[number]["label"])].item())[:24]
    page = read(RUN)
    data = MNISTDataModule(data_dir=mnist)
    data.setup("test")
    assert len(page.pictures) == len(worst) > 5
    for number, source, caption in zip(worst, page.pictures, page.captions, strict=False):
        kind, content = source.split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert torch.equal(torch.from_numpy(np.array(image)), data.test.inputs[number, 0])
        row = table[number]
        sure = f"{float(row['probability']):.1%}"
        assert caption == f"{row['label']} → {row['prediction']} ({sure})row {number}"
    first = [table[number] for number in worst[:12]]
    assert page.heat_maps == [f"heat map: orange for {row['prediction']}, blue for {row['label']}" for row in first]
    assert "Correct predictions" in page.text


def test_names_are_text_whatever_is_in_them(kindling: Command) -> None:
    options = "--model MLPClassifier --model.hidden [8] --data helpers.AwkwardDataModule"
    assert kindling("fit", *options.split(), *TINY[-4:], "--trainer.max_epochs", "1").code == 0
    page = read(RUN)
    assert [row[0] for row in page.tables["Metrics per class"][1:]] == list(AWKWARD)
    assert page.tables["Worst predictions"][1][0].startswith("<i>row</i>")
    source = (RUN / "report.html").read_text()
    for raw in ("<b>&", "<i>", 'quote"', "<script"):
        assert raw not in source
    assert written()[0][0]["label"] in AWKWARD


def test_the_report_is_self_contained(trained: Train) -> None:
    trained(*TINY)
    source = (RUN / "report.html").read_text()
    text = re.sub(r"data:image/png;base64,[^\"]*", "", source.split("<details>")[0])
    assert not re.search(r"https?:|//\w|<script|<link|@import|url\(", text)
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)', source))


@pytest.mark.slow
def test_the_report_states_that_there_are_no_mistakes(kindling: Command) -> None:
    easy = "--data.num_features 2 --data.num_informative 2 --data.num_classes 2 --trainer.max_epochs 30".split()
    easy += ["--model.optimizer.lr", "0.03", "--data", "helpers.EasyDataModule"]
    result = kindling("fit", *TINY, *easy[-2:], "--model.optimizer.lr", "0.03", "--trainer.max_epochs", "10")
    assert result.code == 0, result.err
    text = read(RUN).text
    assert "All predictions are correct." in text
    assert "100.00%93.98% to 100.00%" in text  # the accuracy has an interval all the same
    assert text.count("no interval") == 2  # the draws of balanced accuracy and F1 are all the same


def test_the_list_of_confusions_states_that_there_are_none() -> None:
    correct = ConfusionCounts(torch.arange(25), torch.arange(25), torch.ones(25, dtype=torch.long))
    assert "All predictions are correct." in confusion_section(correct, [*map(str, range(25))])


def test_a_process_without_a_batch_has_an_empty_share(monkeypatch: pytest.MonkeyPatch) -> None:
    collected = TestOutputCollector()
    model = MLPClassifier(num_classes=3, input_shape=(2,))
    trainer = Trainer(logger=False)
    trainer.datamodule = SyntheticDataModule()  # type: ignore[attr-defined]
    monkeypatch.setattr(Trainer, "world_size", 2)
    monkeypatch.setattr("kindling.training.output_collector.gather_samples", lambda part, trainer: part)
    collected.on_test_epoch_end(trainer, model)
    assert isinstance(collected.outputs, Tensor)
    assert collected.targets is not None
    assert (collected.outputs.shape, collected.targets.shape) == ((0, 3), (0,))


@pytest.mark.slow
def test_a_model_that_diverged_has_a_report(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    best = RUN / "checkpoints" / "best.ckpt"
    stored = torch.load(best, weights_only=True)
    stored["state_dict"]["network.1.weight"].fill_(torch.nan)
    torch.save(stored, best)
    result = kindling("test", "--ckpt_path", RUN)
    assert result.code == 0, result.err
    text = (RUN / "test_metrics.json").read_text()
    figures = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert figures == {"test/loss": None, "test/accuracy": 0, "test/balanced_accuracy": 0, "test/f1": 0}
    page = read(RUN)
    assert "lossnanno interval" in page.text
    assert "60 predictions are NaN and counted as wrong." in page.text
    assert page.tables["Confusion matrix"][0] == ["", "0", "1", "2", "no prediction"]


def test_samples_without_a_prediction_are_wrong(kindling: Command) -> None:
    options = "--model MLPClassifier --data helpers.NaNTestDataModule --data.num_samples 300"
    result = kindling("fit", *options.split(), *TINY[-4:])
    assert result.code == 0, result.err
    table, _ = written()
    assert [row["prediction"] == "" for row in table] == [number % 3 == 0 for number in range(60)]
    labels, predictions = ([row[name] for row in table] for name in ("label", "prediction"))
    figures = json.loads((RUN / "test_metrics.json").read_text())
    expected = {
        "test/accuracy": np.mean([label == answer for label, answer in zip(labels, predictions, strict=True)]),
        "test/balanced_accuracy": recall_score(labels, predictions, labels=list("012"), average="macro"),
        "test/f1": f1_score(labels, predictions, labels=list("012"), average="macro"),
        "test/loss": None,
    }
    assert figures == pytest.approx(expected, abs=1e-5)
    page = read(RUN)
    assert "20 predictions are NaN and counted as wrong." in page.text
    for name in ("accuracy", "balanced_accuracy", "f1"):
        figure = figures[f"test/{name}"]
        found = re.search(rf"{figure:.2%}([\d.]+)% to ([\d.]+)%", page.text)
        assert found
        assert float(found[1]) < 100 * figure < float(found[2])
    confused = [[int(cell or 0) for cell in row[1:]] for row in page.tables["Confusion matrix"][1:]]
    assert confused == confusion_matrix(labels, predictions, labels=["0", "1", "2", ""])[:3].tolist()
    assert "no prediction" in {row[2] for row in page.tables["Worst predictions"][1:]} | {
        *page.tables["Confusion matrix"][0]
    }


def test_the_loss_lies_in_its_interval_however_large_it_is(kindling: Command) -> None:
    """A model that is certain and wrong: its probabilities are 0, but their logarithms are finite."""
    kindling("fit", *TINY, "--model.hidden", "[]", "--model.optimizer", "SGD", "--model.optimizer.lr", "1e4")
    loss = json.loads((RUN / "test_metrics.json").read_text())["test/loss"]
    assert loss > 1000
    found = re.search("loss<b>(.*?)</b><span>(.*?) to (.*?)</span>", (RUN / "report.html").read_text())
    assert found
    assert found[1] == format_metric(loss)
    assert float(found[2]) < loss < float(found[3]) < 2 * loss


def test_the_report_shows_the_command_of_the_test(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    for options, folder in (([], RUN), (["--data.num_samples", "200"], RUN / "test_num_samples_200")):
        kindling("test", "--ckpt_path", "best", *options)
        assert " ".join(["kindling test --ckpt_path best", *options]) in read(folder).text
        assert (RUN / "config.yaml").read_text() in read(folder).text


@pytest.mark.slow
def test_photos_are_shown_small(kindling: Command) -> None:
    options = "--model MLPClassifier --model.hidden [4] --data helpers.PhotosDataModule"
    result = kindling("fit", *options.split(), *TINY[-4:])
    assert result.code == 0, result.err
    pictures = read(RUN).pictures
    assert len(pictures) > 5
    for source in pictures:
        with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
            assert image.size == (256, 128)


def test_part_of_the_test_split_can_be_tested(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    few = ["--data.eval_batch_size", "7", "--trainer.limit_test_batches", "2"]
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    result = kindling("test", "--ckpt_path", RUN, *few)
    assert (result.code, "test/accuracy" in result.out) == (0, True)
    assert "test results not saved: --trainer.limit_test_batches differs from the run\n" in result.out
    assert before == {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    assert "not saved" in kindling("test", "--ckpt_path", RUN, "--trainer.limit_test_batches", "1").out  # one batch
    assert kindling("fit", *TINY, *few).code == 0  # whose own test has no more samples
    short = RUN.with_name("version_1")
    assert "14 test samples" in read(short).text
    assert "not saved" not in kindling("test", "--ckpt_path", short, *few).out


def test_results_of_other_data_have_files_of_their_own(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    Path("other.py").write_text("from kindling import SyntheticDataModule\n\nclass Other(SyntheticDataModule): ...\n")
    for options, name in (
        (["--data.data_seed", "7"], "data_seed_7"),
        (["--plugin", "other.py", "--data", "Other", "--data.num_samples", "250"], "Other_num_samples_250"),
    ):
        result = kindling("test", "--ckpt_path", RUN, *options)
        assert result.code == 0, result.err
        assert f"from the run: the results are in {RUN / f'test_{name}'}, and those of the run are" in result.out
        assert f"Test of tiny/version_0/test_{name}" in read(RUN / f"test_{name}").text
        assert kindling("predict", "--ckpt_path", RUN, *options).code == 0
        tested, predicted = (RUN / f"test_{name}/predictions.csv"), (RUN / f"predictions_{name}.csv")
        assert tested.read_text().count("\n") == predicted.read_text().count("\n") > 1
    Path("dotted.yaml").write_text("data.data_seed: 7\n")
    assert "--data.data_seed differs" in kindling("test", "--ckpt_path", RUN, "--config", "dotted.yaml").out
    assert before == {path: path.read_bytes() for path in before}
    same = kindling("test", "--ckpt_path", RUN, "--model.hidden", "[8]", "--data.num_samples", "300")
    assert (same.code, "not saved" in same.out, "differ" in same.out) == (0, False, False)
    assert not list(RUN.glob("test_num*"))


@pytest.mark.parametrize("part", ["x" * 100, "日" * 60], ids=["ascii", "chinese"])
def test_names_of_other_data_fit_the_file_system(part: str) -> None:
    found = name_of_data({"data_dir": f"{part}/{part}/{part}"})
    Path(f"predictions_{found}.csv").touch()
    assert found != name_of_data({"data_dir": f"{part}/{part}/{part}/{part}"})


def test_images_are_compared_with_others_if_there_are_enough() -> None:
    many, few = rows_to_compare(30, torch.arange(14)), rows_to_compare(20, torch.arange(14))
    assert sorted(many.tolist()) == [*range(14, 30)]
    assert len({*few.tolist()}) == 16


def test_only_tested_images_are_searched_for_faults(kindling: Command) -> None:
    for split, label, number in product(("train", "test"), "ab", range(20)):
        path = Path("photos", split, label, f"{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        is_blank = split == "test" and (label == "b" or number == 0)
        (Image.new("L", (16, 16), 100) if is_blank else Image.effect_noise((16, 16), 40 + number)).save(path)
    few = ["--trainer.limit_test_batches", "1", "--data.eval_batch_size", "8"]
    options = "--model MLPClassifier --data ImageFolderDataModule --data.data_dir photos"
    result = kindling("fit", *options.split(), *few, *TINY[-4:])
    assert result.code == 0, result.err
    assert "1 of 8 test images is blank" in read(RUN).text


@pytest.mark.slow
def test_the_page_fits_a_phone(kindling: Command, mnist: Path, folder: Path) -> None:
    """In a real browser, 360 pixels wide: wider elements scroll in their own boxes."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    clothes = f"--model MLPClassifier --data MNISTDataModule --data.source FashionMNIST --data.data_dir {mnist}"
    assert kindling("fit", *clothes.split(), "--data.val_split", "40", *TINY[-4:]).code == 0
    report = (folder / RUN / "report.html").as_uri()
    Path("phone.html").write_text(
        f'<iframe src="{report}" width="360" height="800"></iframe><p></p><script>onload = () => {{'
        "const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.querySelector('p').textContent = `${page.clientWidth} ${page.scrollWidth}`}</script>"
    )
    options = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --dump-dom".split()
    dom = subprocess.run([browser, *options, folder / "phone.html"], capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"<p>(\d+) (\d+)</p>", dom)
    assert found, dom
    shown, needed = map(int, found.groups())
    assert 330 <= shown <= 360
    assert needed <= shown
