"""Likely label errors: marked as by cleanlab, listed in a file and in the report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from report_reader import read
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB

from conftest import Command
from kindling import ImageFolderDataModule
from kindling.evaluation.label_errors import find_label_errors
from kindling.models.many_classes import TopClasses

SHORT = ["--trainer.max_epochs", "1", "--run_name", "short"]
CNN = "--model CNNClassifier --model.channels [8,16] --model.hidden 32 --data ImageFolderDataModule".split()


def confident_learning(probabilities: np.ndarray, labels: np.ndarray) -> set[int]:
    """Return the samples of which a model is sure that their label is wrong, by Northcutt et al. (2021)."""
    classes = range(probabilities.shape[1])
    # As in cleanlab, the model is never sure of a class without samples.
    thresholds = [probabilities[labels == label, label].mean() if label in labels else np.inf for label in classes]
    found = set()
    for row, (values, label) in enumerate(zip(probabilities, labels, strict=True)):
        sure = [name for name in classes if values[name] >= thresholds[name]]
        if sure and max(sure, key=lambda name: values[name]) != label and values.argmax() != label:
            found.add(row)
    return found


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, set[int]]:
    """Out-of-sample probabilities of digits, and labels of which 5% are wrong."""
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    wrong = random.choice(len(labels), 90, replace=False)
    given = labels.copy()
    given[wrong] = (given[wrong] + random.integers(1, 10, 90)) % 10
    model = GaussianNB(var_smoothing=0.1)
    return cross_val_predict(model, images, given, method="predict_proba"), given, labels, {*wrong.tolist()}


def test_the_most_improbable_labels_come_first(digits: tuple[np.ndarray, ...]) -> None:
    probabilities, given, labels, wrong = digits
    found = find_label_errors(torch.from_numpy(probabilities), torch.from_numpy(given))
    own = probabilities[np.arange(len(given)), given]
    assert {*found.rows.tolist()} == {*np.flatnonzero(probabilities.argmax(1) != given).tolist()}
    assert found.probabilities.tolist() == sorted(own[found.rows].tolist())
    assert (found.suggested.numpy() == probabilities[found.rows].argmax(1)).all()
    assert {*found.rows[found.sure].tolist()} == confident_learning(probabilities, given)
    assert len({*found.rows.tolist()[: len(wrong)]} & {*wrong}) > 0.75 * len(wrong)
    of_wrong = [row in wrong for row in found.rows.tolist()]
    assert np.mean(found.suggested.numpy()[of_wrong] == labels[found.rows.numpy()[of_wrong]]) > 0.85


def test_no_model_is_sure_of_a_class_without_samples(digits: tuple[np.ndarray, ...]) -> None:
    probabilities, given, _, _ = digits
    rows = given != 3
    probabilities, given = probabilities[rows], given[rows]
    found = find_label_errors(torch.from_numpy(probabilities), torch.from_numpy(given))
    assert {*found.rows[found.sure].tolist()} == confident_learning(probabilities, given)
    assert (found.suggested == 3).sum() > 5
    alone = find_label_errors(torch.tensor([[0.2], [0.9], [0.3]]), torch.zeros(3, 1, dtype=torch.long))
    assert (alone.rows.tolist(), alone.sure.any().item()) == ([1], False)


def test_a_few_probabilities_of_each_sample_are_enough(digits: tuple[np.ndarray, ...]) -> None:
    probabilities, given = (torch.from_numpy(part) for part in digits[:2])
    all_classes, some = (
        find_label_errors(each, given) for each in (probabilities, TopClasses.of(probabilities, given))
    )
    assert len(all_classes.rows) > 45
    assert all(map(torch.equal, all_classes, some))


def test_several_classes_are_decided_one_by_one() -> None:
    random = np.random.default_rng(0)
    labels = random.random((500, 3)) < [0.5, 0.3, 0.1]
    probabilities = np.clip(0.25 + 0.5 * labels + random.normal(size=labels.shape) * 0.15, 0.01, 0.99)
    given = labels ^ (random.random(labels.shape) < 0.03)
    found = find_label_errors(torch.from_numpy(probabilities), torch.from_numpy(given))
    assert {*found.rows.tolist()} == {*np.flatnonzero(((probabilities >= 0.5) != given).any(axis=1)).tolist()}
    assert (found.suggested.numpy() == (probabilities[found.rows] >= 0.5)).all()
    pairs = np.stack([1 - probabilities, probabilities], axis=2)  # (N, classes, 2)
    sure = set().union(*(confident_learning(pairs[:, label], given[:, label].astype(int)) for label in range(3)))
    assert {*found.rows[found.sure].tolist()} == sure
    assert len(sure) > 20
    assert found.probabilities.tolist() == sorted(found.probabilities.tolist())


def test_predictions_that_are_nan_are_left_out() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [torch.nan, torch.nan], [0.95, 0.05]])
    assert find_label_errors(probabilities, torch.tensor([0, 0, 1, 1, 1, 1])).rows.tolist() == [5]


def test_samples_of_several_classes_that_are_nan_are_left_out() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (200, 2), generator=random)
    probabilities = (0.25 + 0.5 * labels + 0.2 * torch.randn(200, 2, generator=random)).clamp(0.01, 0.99)
    expected = find_label_errors(probabilities, labels)
    nan = torch.full_like(probabilities, torch.nan)
    found = find_label_errors(torch.cat([probabilities, nan]), torch.cat([labels, labels]))
    assert len(expected.rows) > 0
    assert all(map(torch.equal, expected, found))


def write_digits(folder: Path, number: int, swapped: int, seed: int) -> set[str]:
    """Write digits as PNG files in class folders, and return the names of those in the wrong folder."""
    digits, random = load_digits(), np.random.default_rng(seed)
    images, labels = (digits.images * 255 / 16).astype(np.uint8)[:number], digits.target[:number]
    wrong = {*random.choice(number, swapped, replace=False).tolist()}
    names = set()
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        given = (label + random.integers(1, 10)) % 10 if row in wrong else label
        path = folder / str(given) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((16, 16)).save(path)
        names |= {f"{given}/{path.name}"} if row in wrong else set()
    return names


@pytest.mark.slow
def test_swapped_labels_of_images_are_at_the_top_of_the_file(kindling: Command) -> None:
    wrong = write_digits(Path("photos"), 800, 16, seed=0)
    options = (*CNN, "--data.data_dir", "photos", "--run_name", "folds", "--trainer.max_epochs", 10)
    result = kindling("repeat", "--folds", 3, *options, "--model.optimizer.lr", "3e-3", "--data.batch_size", 32)
    assert result.code == 0, result.err
    folder = Path("runs/folds/repeat_0")
    assert f"likely label errors: {folder / 'label_errors.csv'}" in result.out
    found = pd.read_csv(folder / "label_errors.csv")
    assert [*found] == ["file", "given", "suggested", "probability", "sure"]
    top = found.head(24)
    assert len({*top["file"]} & wrong) >= 0.7 * len(wrong)  # in the top 3%
    assert (found["given"].astype(str) == found["file"].str[0]).all()
    predicted = pd.read_csv(folder / "predictions.csv").set_index("file")
    assert (predicted.loc[found["file"], "prediction"].to_numpy() == found["suggested"].to_numpy()).all()
    text = read(folder).text
    assert f"sure of another class for {found['sure'].sum():,} of 800 labels" in text
    assert "Only test samples are covered" not in text
    text = read(folder / "fold_1/version_0").text
    assert "Only test samples are covered" in text
    assert "kindling repeat --folds" not in text

    wrong_rows = found.set_index("file").astype(str)  # corrected as docs/report.md says
    split = pd.read_csv(folder / "fold_1/version_0/split.csv", dtype=str, keep_default_na=False).set_index("file")
    wrong_rows = wrong_rows[wrong_rows.index.isin(split.index[split["split"] == "train"])]
    split.update(wrong_rows.rename(columns={"suggested": "class"})[["class"]])
    split.to_csv("corrected.csv")
    data = ImageFolderDataModule("photos", split="corrected.csv")
    data.setup("fit")
    labels = dict(zip(*[[getattr(each, name) for each in data._samples] for name in ("file", "label")], strict=True))
    assert all(labels[file] == suggested for file, suggested in wrong_rows["suggested"].items())


def test_label_errors_of_a_table_have_row_numbers(kindling: Command) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(400, 2)), columns=["a", "b"])
    frame["code"] = [f"C-{row:04d}" for row in random.permutation(400)]
    frame["kind"] = np.where(frame["a"] + frame["b"] > 0, "x", "y")
    frame.loc[::40, "kind"] = frame.loc[::40, "kind"].map({"x": "y", "y": "x"})
    frame.to_csv("rows.csv", index=False)
    options = "--model MLPClassifier --model.hidden [16] --data TableDataModule --data.path rows.csv --data.target kind"
    result = kindling(
        "fit", *options.split(), "--model.optimizer.lr", "0.03", "--trainer.max_epochs", 8, "--run_name", "rows"
    )
    assert result.code == 0, result.err
    found = pd.read_csv("runs/rows/version_0/label_errors.csv")
    assert [*found] == ["row", "code", "given", "suggested", "probability", "sure"]
    assert len(found) > 0
    assert (frame["kind"][found["row"]].to_numpy() == found["given"]).all()
    assert (found["given"] != found["suggested"]).all()
    assert "Likely label errors" in read(Path("runs/rows/version_0")).tables
    assert "For all labels, run kindling repeat --folds 5 with" in read(Path("runs/rows/version_0")).text


def test_cross_validation_is_advised_only_if_the_test_split_is_drawn(kindling: Command, mnist: Path) -> None:
    write_digits(Path("given/train"), 20, 0, seed=0)
    write_digits(Path("given/test"), 20, 0, seed=1)
    write_digits(Path("drawn"), 20, 0, seed=0)
    assert ImageFolderDataModule("drawn").draws_folds
    assert not ImageFolderDataModule("drawn", fold="1/5").draws_folds
    assert not ImageFolderDataModule("given").draws_folds
    options = f"--model MLPClassifier --data MNISTDataModule --data.data_dir {mnist} --data.val_split 40"
    result = kindling("fit", *options.split(), *SHORT)
    assert result.code == 0, result.err
    text = read(Path("runs/short/version_0")).text
    assert "Only test samples are covered" in text
    assert "kindling repeat" not in text
