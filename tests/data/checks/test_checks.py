"""Faults planted in clean data, and clean data without findings."""

import io
import re
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from labels_data import COLORS, ColorsDataModule
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageFilter
from sklearn import datasets
from torch.utils.data import DataLoader, TensorDataset

from conftest import Command
from helpers import png_16
from kindling import DigitsDataModule, ImageFolderDataModule, MNISTDataModule, SyntheticDataModule, TableDataModule
from kindling.data.checks import DataReport, Finding, inspect_data
from kindling.data.checks.groups import in_several_splits
from kindling.data.checks.quality import find_faults
from kindling.data.classification import ClassificationDataModule
from kindling.data.datamodule import SPLITS, Split
from kindling.data.datasets import Batch
from kindling.data.images.image_info import ImageInfo, inspect


def table(**arguments: Any) -> DataReport:
    return inspect_data(TableDataModule("rows.csv", "kind", **arguments))


def found(report: DataReport) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


@pytest.fixture
def iris() -> pd.DataFrame:
    data = datasets.load_iris(as_frame=True)
    frame = data.frame.rename(columns={"target": "kind"})
    frame["kind"] = data.target_names[data.target]
    frame.to_csv("rows.csv", index=False)
    return frame


@pytest.fixture
def blobs() -> pd.DataFrame:
    """600 rows of 6 numbers and a class that the numbers tell apart."""
    features, kinds = datasets.make_blobs(600, 6, centers=3, cluster_std=2.0, random_state=0)
    frame = pd.DataFrame(features, columns=[*"abcdef"]).assign(kind=np.array(["x", "y", "z"])[kinds])
    frame.to_csv("rows.csv", index=False)
    return frame


@pytest.mark.usefixtures("iris")
def test_a_clean_table_has_no_findings_whatever_the_split() -> None:
    for seed in range(2):
        report = table(split_seed=seed)
        assert (report.findings, report.notes) == ([], [])
    assert report.sizes == {"train": 108, "val": 12, "test": 30}
    assert report.classes["setosa"] == {"train": 36, "val": 4, "test": 10}
    datasets.load_diabetes(as_frame=True).frame.to_csv("numbers.csv", index=False)
    report = inspect_data(TableDataModule("numbers.csv", "target"))
    assert report.findings == []
    numbers = pd.read_csv("numbers.csv")["target"]
    assert min(each["min"] for each in report.targets.values()) == numbers.min()
    assert max(each["max"] for each in report.targets.values()) == numbers.max()


def test_copies_and_near_copies_of_rows_are_found_with_their_rows(blobs: pd.DataFrame) -> None:
    copies = blobs.head(40)
    near = blobs.iloc[100:140].copy()
    near[[*"abcdef"]] += np.random.default_rng(0).normal(0, 1e-3, (40, 6))
    together = pd.concat([blobs, copies, near], ignore_index=True)
    together.to_csv("rows.csv", index=False)
    data = TableDataModule("rows.csv", "kind")
    report = found(inspect_data(data))
    assert {*report} == {"copies", "near-copies"}
    splits = data.splits
    crossing = [(600 + row, row) for row in range(40) if splits[600 + row] != splits[row]]
    assert report["copies"].severity == "error"
    assert len(report["copies"].where) == len(crossing)
    for pair in crossing:
        other, held_out = sorted(pair, key=lambda row: SPLITS.index(splits[row]))
        assert f"row {held_out} ({splits[held_out]}) = row {other} ({splits[other]})" in report["copies"].where
    pairs = [(640 + row, 100 + row) for row in range(40)]
    crossing = [pair for pair in pairs if sum(splits[each] == "train" for each in pair) == 1]
    expected = {
        f"row {a} ({splits[a]}) ~ row {b} (train)"
        for one, other in crossing
        for a, b in [(one, other) if splits[other] == "train" else (other, one)]
    }
    assert {*report["near-copies"].where} == expected


def test_rows_of_few_combinations_are_no_copies() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.choice(["yes", "no", "maybe"], 400) for name in ("a", "b", "kind")})
    frame.to_csv("rows.csv", index=False)
    assert table().findings == []


def test_wrong_labels_are_found(blobs: pd.DataFrame) -> None:
    flipped = np.random.default_rng(1).choice(600, 20, replace=False)
    blobs.loc[flipped, "kind"] = blobs.loc[flipped, "kind"].map({"x": "y", "y": "z", "z": "x"})
    again = blobs.loc[[300]].assign(kind=lambda frame: frame["kind"].map({"x": "y", "y": "z", "z": "x"}))
    pd.concat([blobs, again], ignore_index=True).to_csv("rows.csv", index=False)
    contradiction, implausible = (finding for finding in table().findings if finding.check == "labels")
    assert contradiction.where == [f"row 300: {blobs['kind'][300]} = row 600: {again['kind'].iloc[0]}"]
    rows = {int(place.split()[1]) for place in implausible.where}
    assert len(rows & {*flipped}) >= 12  # of 20; none of clean data
    assert len(rows - {*flipped, 300, 600}) <= 1


def test_faulty_columns_are_found(blobs: pd.DataFrame) -> None:
    random = np.random.default_rng(0)
    blobs.loc[:2, "kind"] = "odd"
    blobs["outcome"] = blobs["kind"].map({"x": "won", "y": "lost", "z": "open", "odd": "?"})
    blobs["always"] = 1
    blobs["number"] = random.permutation(600)
    blobs["patient_id"] = random.integers(0, 100, 600).astype(str) + "-a"
    blobs["rarely"] = np.where(random.random(600) < 0.1, random.normal(size=600), np.nan)
    blobs.to_csv("rows.csv", index=False)
    report = table(drop=("f",))
    by_column = {
        finding.where[0]: finding for finding in report.findings if finding.check in ("leak", "columns", "missing")
    }
    assert by_column["outcome"].severity == "error"
    assert by_column["outcome"].check == "leak"
    assert by_column["outcome"].fix.endswith("""--data.drop '["f", "outcome"]'""")
    assert by_column["always"].message == "column always is constant"
    assert by_column["number"].message == "column number is not a feature: looks like an ID column"
    assert by_column["rarely"].check == "missing"
    assert report.missing["rarely"] == blobs["rarely"].isna().sum()
    groups = found(report)["groups"]
    assert groups.fix.endswith("--data.groups patient_id")
    assert set(groups.where) <= {*blobs["patient_id"]}
    assert found(report)["classes"].where == ["odd (1)"]
    assert "groups" not in found(table(drop=("outcome",), groups="patient_id"))


def test_columns_of_groups_are_found_by_their_rows_with_one_advice_each(blobs: pd.DataFrame) -> None:
    random = np.random.default_rng(0)
    patients = random.integers(0, 60, 600)
    blobs["patient"] = [f"P{patient}" for patient in patients]  # its rows share class and two of three columns
    blobs["ward"] = [f"Ward {patient}" for patient in patients]  # another name for the same groups
    blobs["city"] = random.choice([f"city {number}" for number in range(40)], 600)  # no groups
    blobs["code"] = random.integers(0, 40, 600)
    blobs["kind"] = np.array(["x", "y", "z"])[patients % 3]
    blobs.to_csv("rows.csv", index=False)
    findings = [finding for finding in table().findings if finding.check in ("groups", "columns", "leak")]
    assert [finding.fix.rpartition(" ")[2] for finding in findings if finding.check == "groups"] == ["patient"]
    assert not [finding for finding in findings if finding.check != "groups"]

    baseline = pd.DataFrame(random.normal(size=(60, 3)).round(2), columns=["height", "weight", "age"])
    visits = baseline.iloc[patients].reset_index(drop=True)
    visits.assign(who=patients, pulse=random.normal(size=600).round(2), kind=random.choice(["x", "y"], 600)).to_csv(
        "rows.csv", index=False
    )
    assert found(table())["groups"].fix.endswith("--data.groups who")
    assert "groups" not in found(table(groups="who"))


def test_columns_of_groups_in_a_file_of_labels_are_found() -> None:
    random = np.random.default_rng(0)
    rows = []
    for number in range(120):
        Path("photos").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(f"photos/{number:03}.png")
        rows.append((f"{number:03}.png", f"P{number % 30}", f"camera {number % 17}", ["ill", "well"][number % 30 % 2]))
    pd.DataFrame(rows, columns=["file", "patient", "camera", "state"]).to_csv("labels.csv", index=False)
    options: dict[str, Any] = {"labels": "labels.csv", "target": "state"}
    groups = [f for f in inspect_data(ImageFolderDataModule("photos", **options)).findings if f.check == "groups"]
    assert [finding.fix.rpartition(" ")[2] for finding in groups] == ["patient"]
    grouped = inspect_data(ImageFolderDataModule("photos", **options, groups="patient"))
    assert "groups" not in found(grouped)


def test_many_values_in_several_splits_are_found_in_a_second() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-1, 100_000, 200_000)
    splits = random.choice(np.array(["train", "val", "test"], dtype=object), len(codes), p=[0.8, 0.1, 0.1])
    began = time.process_time()
    found = in_several_splits(codes, splits)
    assert time.process_time() - began < 2
    counts = pd.Series(splits).groupby(codes).nunique()
    assert found.tolist() == [code for code, count in counts.items() if code >= 0 and count > 1]


def write_digits(folder: str, number: int = 400) -> None:
    digits = datasets.load_digits()
    for row, (image, kind) in enumerate(zip(digits.images[:number], digits.target, strict=False)):
        path = Path(folder, str(kind), f"{row:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((24, 24)).save(path)


def test_images_with_a_small_object_or_of_equal_brightness_are_not_blank() -> None:
    random = torch.Generator().manual_seed(0)
    small = torch.full((5, 3, 100, 100), 0.5)
    small[:, :, 20:28, 30:38] = torch.rand(5, 3, 8, 8, generator=random)  # 0.6% of the area
    stripes = torch.zeros(5, 3, 100, 100)
    stripes[:, 0, :, ::2] = stripes[:, 1, :, 1::2] = 1  # red and green
    blank = torch.rand(5, 3, 1, 1, generator=random).clamp(0.3, 0.7).expand(5, 3, 100, 100)
    assert find_faults([torch.cat([small, stripes]), blank]) == {"blank": [*range(10, 15)]}


def test_a_clean_folder_has_no_findings_and_planted_faults_are_found() -> None:
    write_digits("digits")
    report = inspect_data(ImageFolderDataModule("digits"))
    assert (report.findings, report.notes) == ([], [])
    assert sum(report.sizes.values()) == 400
    kinds = {split.name: split for split in Path("digits").iterdir()}
    first = sorted(kinds["3"].iterdir())
    for number, path in enumerate(first[:12]):
        (kinds["3"] / f"copy{number:02}.png").write_bytes(path.read_bytes())  # copies stay together in drawn splits
    (kinds["8"] / "wrong.png").write_bytes(first[20].read_bytes())
    for number, path in enumerate(sorted(kinds["5"].iterdir())):
        jpeg = io.BytesIO()
        Image.open(path).save(jpeg, "JPEG", quality=95)
        (kinds["5"] / f"again{number:02}.jpg").write_bytes(jpeg.getvalue())
    (kinds["0"] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    Image.new("L", (24, 24), 200).save(kinds["1"] / "blank.png")
    dark = np.random.default_rng(0).integers(0, 20, (24, 24)).astype(np.uint8)
    Image.fromarray(dark).save(kinds["2"] / "dark.png")
    Image.open(first[30]).resize((10, 10)).save(kinds["3"] / "small.png")
    findings = inspect_data(ImageFolderDataModule("digits")).findings
    by_check = {finding.check: finding for finding in findings}
    assert by_check["broken"].severity == "error"
    assert [place.partition(":")[0] for place in by_check["broken"].where] == ["0/broken.png"]
    assert "this image is broken" in by_check["broken"].where[0]
    assert by_check["small"].where == ["3/small.png: 10 pixels"]
    assert [finding.where for finding in findings if finding.check == "blank"] == [["1/blank.png"], ["2/dark.png"]]
    assert any(
        "8/wrong.png: 8" in place for finding in findings if finding.check == "labels" for place in finding.where
    )
    near = by_check["near-copies"].where
    assert len(near) > 8
    assert all("5/" in place.split(" ~ ")[0] and "5/" in place.split(" ~ ")[1] for place in near)
    assert "copies" not in by_check


def test_copies_across_split_folders_are_an_error() -> None:
    write_digits("plain", 200)
    for path in sorted(Path("plain").rglob("*.png")):
        number = int(path.stem)
        new = Path("digits", "test" if number % 4 == 0 else "train", path.parent.name, path.name)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(path.read_bytes())
    path = sorted(Path("digits/train/7").iterdir())[0]
    (Path("digits/test/7") / "seen.png").write_bytes(path.read_bytes())
    data = ImageFolderDataModule("digits")
    copies = found(inspect_data(data))["copies"]
    split = next(sample.split for sample in data._samples if sample.file == f"train/7/{path.name}")
    assert copies.where == [f"test/7/seen.png (test) = train/7/{path.name} ({split})"]


def write_tags(number: int = 60) -> pd.DataFrame:
    """Noise with several classes each, of which only one image has the class rare."""
    random = np.random.default_rng(0)
    Path("photos").mkdir()
    for row in range(number):
        Image.fromarray(random.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(f"photos/{row:02}.png")
    frame = pd.DataFrame({"file": [f"{row:02}.png" for row in range(number)]})
    frame[["cat", "dog"]] = random.integers(0, 2, (number, 2))
    frame["rare"] = (frame.index == 7).astype(int)
    frame.to_csv("tags.csv", index=False)
    return frame


def test_several_classes_are_counted_and_compared(kindling: Command) -> None:
    frame = write_tags()
    Path("photos/20.png").write_bytes(Path("photos/21.png").read_bytes())
    frame.loc[[20, 21], ["cat", "dog"]] = [[1, 1], [0, 0]]
    frame["split"] = np.array(["train", "train", "val", "test"])[frame.index % 4]
    frame.loc[[7, 20, 21], "split"] = "train"
    frame.to_csv("tags.csv", index=False)
    report = inspect_data(ImageFolderDataModule("photos", labels="tags.csv"))
    expected = frame.groupby("split")[["cat", "dog", "rare"]].sum().to_dict("index")
    names = ("train", "val", "test")
    assert report.classes == {name: {s: expected[s][name] for s in names} for name in ("cat", "dog", "rare")}
    classes = [(finding.message, finding.where) for finding in report.findings if finding.check == "classes"]
    assert classes == [
        ("1 of 3 classes has few training samples", ["rare (1)"]),
        ("1 of 3 classes has no samples in val", ["rare"]),
        ("1 of 3 classes has no samples in test", ["rare"]),
    ]
    assert found(report)["labels"].where == ["20.png: cat, dog = 21.png: none"]
    assert not [note for note in report.notes if " has no images of " in note]
    result = kindling(
        "check", "--data", "ImageFolderDataModule", "--data.data_dir", "photos", "--data.labels", "tags.csv"
    )
    assert f"{frame['cat'].mean():.1%}" in result.out  # of the images, not of the labels

    report = inspect_data(ColorsDataModule())
    counts = {split: ColorsDataModule().load(split)[1].sum(0) for split in ("train", "test")}
    for number, name in enumerate(COLORS):
        split = report.classes[name]
        assert (split["train"] + split["val"], split["test"]) == (
            int(counts["train"][number]),
            int(counts["test"][number]),
        )


def test_a_copy_with_other_classes_in_another_split_is_no_copy_but_a_wrong_label() -> None:
    frame = write_tags()
    Path("photos/20.png").write_bytes(Path("photos/21.png").read_bytes())
    Path("photos/30.png").write_bytes(Path("photos/31.png").read_bytes())
    frame.loc[[20, 21, 30, 31], ["cat", "dog"]] = [[1, 1], [0, 1], [1, 0], [1, 0]]
    frame["split"] = np.array(["train", "val", "test"])[frame.index % 3]
    frame.loc[7, "split"] = "train"
    frame.to_csv("tags.csv", index=False)
    report = found(inspect_data(ImageFolderDataModule("photos", labels="tags.csv")))
    assert report["copies"].where == ["31.png (val) = 30.png (train)"]
    assert report["labels"].where == ["21.png: dog = 20.png: cat, dog"]


def test_a_row_whose_image_is_missing_is_a_finding() -> None:
    frame = write_tags()
    pd.concat([frame, frame.assign(file="gone.png").head(2)]).to_csv("tags.csv", index=False)
    broken = found(inspect_data(ImageFolderDataModule("photos", labels="tags.csv")))["broken"]
    assert broken.severity == "error"
    assert broken.message == (
        "tags.csv: row 60 (counted from 0, line 62) names gone.png, which is not an image in photos (2 such rows)"
    )


class Odd(ClassificationDataModule):
    """A data module of one's own, with faults."""

    num_classes, class_names, input_shape = 2, ("no", "yes"), (5,)

    def load(self, split: Split) -> Batch:
        features, kinds = SyntheticDataModule(num_samples=400, num_classes=2).load(split)
        features = features[:, :4].clone()
        features[1, 2] = torch.nan
        return torch.cat([features, features[:10]]), torch.cat([kinds, kinds[:10]])


class Plain(LightningDataModule):
    """A LightningDataModule without any base class; test samples are those of training."""

    def _loader(self) -> Any:
        return DataLoader(TensorDataset(torch.arange(40.0).view(20, 2), torch.arange(20) % 2), batch_size=4)

    train_dataloader = test_dataloader = _loader


def test_own_data_modules_are_checked_as_far_as_it_goes() -> None:
    report = inspect_data(Odd())
    messages = [finding.message for finding in report.findings]
    assert "inputs of train have shape (4,), input_shape is (5,)" in messages
    assert any("contain NaN or infinite numbers" in message for message in messages)
    assert found(report)["copies"].severity in ("warning", "error")
    report = inspect_data(Plain())
    assert report.sizes == {"train": 20, "test": 20}
    assert (
        found(report)["copies"].message == "20 of 20 validation and test samples are copies of samples in another split"
    )


@pytest.mark.parametrize("data", [DigitsDataModule(), SyntheticDataModule(num_samples=600)], ids=type)
def test_clean_data_modules_have_no_errors(data: LightningDataModule) -> None:
    report = inspect_data(data)
    assert [finding for finding in report.findings if finding.check != "labels"] == []


@pytest.mark.slow
def test_real_digits_have_no_copies() -> None:
    report = inspect_data(MNISTDataModule("sample"))
    assert {*found(report)} <= {"labels"}
    assert len(found(report)["labels"].where if report.findings else []) < 20


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no check lables: did you mean labels\?"):
        inspect_data(SyntheticDataModule(), ["lables"])


def write_photos(number: int = 60) -> list[Path]:
    """Write squares of smooth noise with sharp edges, in two classes, and return their paths."""
    random, paths = np.random.default_rng(0), []
    for row in range(number):
        path = Path("photos", "ab"[row % 2], f"{row}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(random.integers(40, 220, (12, 12, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


def test_faulty_images_are_found_and_shown_on_a_page(kindling: Command) -> None:
    paths = write_photos()
    for row in (0, 1):
        Image.open(paths[row]).filter(ImageFilter.GaussianBlur(4)).save(paths[row])
    Image.new("RGB", (48, 48), (250, 250, 250)).save(paths[2])
    bright = np.full((48, 48, 3), 255, np.uint8)
    bright[:16] = 236
    Image.fromarray(bright).save(paths[3])
    Image.open(paths[4]).resize((240, 48)).save(paths[4])
    twin = Path("photos", "b", "twin.jpg")  # of an image of class a
    Image.open(paths[6]).save(twin, quality=95, subsampling=0)
    report = inspect_data(ImageFolderDataModule("photos"))
    places = {re.split(" images (?:is|are) ", each.message)[-1]: each.where for each in report.findings}
    assert [each.message for each in report.findings if each.where == ["a/2.png"]] == ["1 of 61 images is blank"]
    assert sorted(places["blurred"]) == ["a/0.png", "b/1.png"]
    assert places["blank"] == ["a/2.png"]
    assert places["very bright"] == ["b/3.png"]
    shape = found(report)["shape"]
    assert shape.where == ["a/4.png: 240 x 48 pixels"]
    (near,) = (each for each in report.findings if "with different labels" in each.message)
    assert near.samples in ([("a/6.png", "b/twin.jpg")], [("b/twin.jpg", "a/6.png")])
    result = kindling("check", "--data", "ImageFolderDataModule", "--data.data_dir", "photos", "--out", "check.html")
    assert result.code == 0, result.err
    assert "page: check.html" in result.out
    page = Path("check.html").read_text()
    assert page.count("data:image/") == sum(len(names) for each in report.findings for names in each.samples)
    assert all(f'title="{place}"' in page for finding in report.findings for place in finding.where)
    assert page.index("warning: blurred") < page.index("warning: shape")


def test_clean_images_have_no_faults() -> None:
    write_photos()
    assert not {"blank", "blurred", "shape", "near-copies"} & {*found(inspect_data(ImageFolderDataModule("photos")))}


def test_which_images_are_blurred_does_not_depend_on_the_split() -> None:
    for row, path in enumerate(write_photos()):  # of all degrees of sharpness
        Image.open(path).filter(ImageFilter.GaussianBlur(2.5 * (row / 60) ** 3)).save(path)
    blurred = [
        sorted(found(inspect_data(ImageFolderDataModule("photos", split_seed=seed)))["blurred"].where)
        for seed in range(2)
    ]
    assert blurred[0] == blurred[1] != []


def test_16_bit_images_are_shown_as_the_model_sees_them(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for row in range(12):
        path = Path("photos", "ab"[row % 2], f"{row}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_16(random.integers(500, 1500, (12, 12, 1)) if row else np.full((12, 12, 1), 1200)))
    inspected = []

    def count(path: str) -> ImageInfo:
        inspected.append(path)
        return inspect(path)

    monkeypatch.setattr("kindling.data.images.image_splits.inspect", count)
    result = kindling("check", "--data", "ImageFolderDataModule", "--data.data_dir", "photos", "--out", "check.html")
    assert "1 of 12 images is blank" in result.out
    assert len(inspected) == 12  # once each
    content = Path("check.html").read_text().partition(";base64,")[2].partition('"')[0]
    assert np.asarray(Image.open(io.BytesIO(b64decode(content)))).mean() > 150
