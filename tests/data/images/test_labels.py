"""Folders of images with a label file: numbers, and several classes per image."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from conftest import Command
from kindling import ImageFolderDataModule
from kindling.data.images.targets import strata_of
from kindling.data.splitting import draw_splits
from kindling.testing import check_data

pytestmark = pytest.mark.usefixtures("console_logs")

COLORS = ("red", "green", "blue")
SMALL = (
    "--model CNNClassifier --model.channels [4] --model.hidden 8 --model.optimizer.lr 0.01 "
    "--data ImageFolderDataModule --data.data_dir photos --data.batch_size 16"
).split()


def photos(number: int = 60, folder: str = "photos", name: str = "image") -> list[tuple[str, list[str], float]]:
    """Images at two depths, each with its colors and the light of its first pixels, in a range of 0 to 200."""
    random, rows = np.random.default_rng(name != "image"), []
    (Path(folder) / "more/deep").mkdir(parents=True)
    for index in range(number):
        chosen, light = random.random(3) < 0.4, random.uniform(0, 200)
        pixels = random.integers(0, 40, (8, 8, 3)) + 180 * chosen
        pixels[:2] = light
        file = f"{'more/deep/' if index % 2 else ''}{name} {index:02}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(Path(folder) / file)
        rows.append((file, [color for color, has in zip(COLORS, chosen, strict=True) if has], light))
    return rows


def write(name: str, header: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> None:
    with Path(name).open("w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerows([header, *rows])


def read(labels: str, **options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule("photos", labels=labels, **options)
    data.setup("fit")
    return data


def by_file(data: ImageFolderDataModule) -> dict[str, Any]:
    """The target of each training and validation image."""
    files = [sample.file for sample in data._samples if sample.split != "test"]
    return dict(zip(files, [*data.train.labels.tolist(), *data.val.labels.tolist()], strict=True))


def test_the_task_is_that_of_the_labels(capfd: pytest.CaptureFixture[str]) -> None:
    rows = photos()
    write("weights.csv", ["image", "weight"], [(file, f"{w:.2f} kg".replace(".", ",")) for file, _, w in rows], ";")
    write("classes.csv", ["name", "kind"], [(file[:-4], (colors or ["gray"])[0]) for file, colors, _ in rows])
    write("lists.csv", ["file", "colors"], [(f"./{file}", ", ".join(colors)) for file, colors, _ in rows])
    columns = [(file, *(int(color in colors) for color in COLORS)) for file, colors, _ in rows]
    write("columns.csv", ["file", *COLORS], columns)

    data = read("weights.csv")
    assert (data.task, hasattr(data, "num_classes"), hasattr(data, "class_counts")) == ("regression", False, False)
    assert data.train.labels.dtype == torch.float32
    weights = {file: light for file, _, light in rows}
    assert by_file(data) == {file: pytest.approx(weights[file], abs=0.006) for file in by_file(data)}
    assert (data.fitted["target"]["name"], data.fitted["target"]["units"]) == ("weight", ["kg"])
    assert "weight: 60 distinct numbers, so regression (--data.task classification for" in capfd.readouterr().err

    data = read("classes.csv")
    assert (data.task, data.class_names) == ("classification", ("blue", "gray", "green", "red"))
    first = {file: (colors or ["gray"])[0] for file, colors, _ in rows}
    assert {file: data.class_names[label] for file, label in by_file(data).items()} == {
        file: first[file] for file in by_file(data)
    }
    assert "classes.csv: kind has 4 different values, so classes (classification)" in capfd.readouterr().err

    data = read("lists.csv")
    assert (data.task, data.class_names) == ("multilabel", ("blue", "green", "red"))
    expected = {file: [float(color in colors) for color in data.class_names] for file, colors, _ in rows}
    assert by_file(data) == {file: expected[file] for file in by_file(data)}
    said = capfd.readouterr().err
    several = sum(len(colors) > 1 for _, colors, _ in rows)
    assert f"{several} rows of lists.csv list several classes in colors, so multilabel" in said
    assert "without colors: taken as images that have none of the classes" in said

    data = read("columns.csv")
    assert (data.task, data.class_names) == ("multilabel", COLORS)
    expected = {file: [float(color in colors) for color in COLORS] for file, colors, _ in rows}
    assert by_file(data) == {file: expected[file] for file in by_file(data)}
    assert "columns.csv: 3 columns of 0 and 1, so several classes per image (multilabel)" in capfd.readouterr().err

    for number, file in enumerate(sorted(weights)):
        Path("photos", file).rename(f"photos/{number}.png")
    write("counts.csv", ["eyes", "file"], [(number % 3, number) for number in range(60)])
    data = read("counts.csv")
    assert (data.task, len(data._samples), data.class_names) == ("classification", 60, ("0", "1", "2"))


def test_the_task_and_the_columns_can_be_chosen() -> None:
    rows = photos()
    write("classes.csv", ["name", "kind"], [(file[:-4], (colors or ["gray"])[0]) for file, colors, _ in rows])
    write("lists.csv", ["file", "colors"], [(file, ", ".join(colors)) for file, colors, _ in rows])
    write("columns.csv", ["file", *COLORS], [(file, *(int(c in colors) for c in COLORS)) for file, colors, _ in rows])
    assert read("lists.csv", task="classification").num_classes > 3
    assert read("classes.csv", task="multilabel").class_names == ("blue", "gray", "green", "red")
    assert read("columns.csv", target="red").class_names == ("0", "1")
    assert read("columns.csv", target=("red", "blue")).class_names == ("red", "blue")
    check_data(read("columns.csv"), shared=0.1)


def test_splits_are_given_or_stratified_and_copies_stay_together() -> None:
    rows = photos()
    splits = ["Test" if index < 6 else "valid" if index < 12 else "train" for index in range(60)]
    write(
        "given.csv",
        ["file", "weight", "Split"],
        [(row[0], row[2], split) for row, split in zip(rows, splits, strict=True)],
    )
    data = read("given.csv")
    assert Counter(sample.split for sample in data._samples) == {"test": 6, "val": 6, "train": 48}
    assert {sample.file for sample in data._samples if sample.split == "test"} == {row[0] for row in rows[:6]}

    for index in range(5):
        shutil.copy(f"photos/{rows[2 * index][0]}", f"photos/copy {index}.png")
    copies = [(f"copy {index}", rows[2 * index][2]) for index in range(5)]
    write("weights.csv", ["file", "weight"], [*((row[0], row[2]) for row in rows), *copies])
    data = read("weights.csv", test_split=0.3)
    where = {sample.file: sample.split for sample in data._samples}
    assert all(where[f"copy {index}.png"] == where[rows[2 * index][0]] for index in range(5))
    heavy = {file for file, _, light in rows if light > np.median([row[2] for row in rows])}
    tested = [file in heavy for file, split in where.items() if split == "test"]
    assert 0.3 < np.mean(tested) < 0.7


def test_several_classes_are_stratified_by_frequent_combinations_and_rare_classes() -> None:
    random = np.random.default_rng(0)
    names = np.array([f"c{number}" for number in range(12)])
    has = random.random((2000, 12)) < np.geomspace(0.4, 0.01, 12)
    labels = ["|".join(names[row]) for row in has]
    _, strata = np.unique(np.array(strata_of(labels, "multilabel"), dtype=str), return_inverse=True)
    held_out = draw_splits(strata, {"test": 0.2}, seed=0) == "test"
    shares = has[held_out].sum(0) / has.sum(0)
    assert np.abs(shares - 0.2).max() < 0.06
    at_random = np.abs([has[random.random(2000) < 0.2].sum(0) / has.sum(0) - 0.2 for _ in range(50)]).max(1).mean()
    assert np.abs(shares - 0.2).max() < at_random


@pytest.mark.parametrize(
    ("header", "change", "options", "words"),
    [
        (
            ["file", "kind"],
            {3: ("lost.png", "a")},
            {},
            "row 3 (counted from 0, line 5) names lost.png, which is not an image in",
        ),
        (["file", "kind"], {3: ("", "a")}, {}, "row 3 (counted from 0, line 5) names no image: correct it"),
        (
            ["file", "kind"],
            {3: ("image 00.png", "b")},
            {},
            "row 3 (counted from 0, line 5) gives image 00.png another label or sp",
        ),
        (["file", "kind"], {}, {"target": "sort"}, "labels.csv has no column sort. It has file, kind"),
        (["file", "kind"], {}, {"target": "kin"}, "labels.csv has no column kin: did you mean kind? It has file, kind"),
        (
            ["file", "kind", "taken by"],
            {},
            {},
            "labels.csv has several columns that may be labels: choose with --data.target kind or "
            "--data.target 'taken by'",
        ),
        (["file"], {}, {}, "labels.csv has no label column, only file: add one"),
        (
            ["kind"],
            {},
            {},
            "labels.csv has no column with names of images in photos, such as image 00.png: its columns",
        ),
        (
            ["file", "kind"],
            {},
            {"task": "regression"},
            "row 0 (counted from 0, line 2) holds a, not a number, which --data.task",
        ),
        (
            ["file", "kind", "split"],
            {2: ("image 02", "a", "x")},
            {},
            "row 2 (counted from 0, line 4) has x in the column split, n",
        ),
        (
            ["file", "a", "b"],
            {},
            {"task": "regression", "target": ("a", "b")},
            "--data.task regression needs one label column",
        ),
        (
            ["file", "a", "b"],
            {1: ("image 01", "2", "0")},
            {"target": ("a", "b")},
            "row 1 (counted from 0, line 3) has 2 in the c",
        ),
    ],
)
def test_a_mistake_ends_in_a_line_that_names_the_row(
    header: list[str], change: dict[int, tuple[str, ...]], options: dict[str, Any], words: str
) -> None:
    photos()
    names = sorted(path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.png"))
    flat = [name for name in names if "/" not in name]
    for index, name in enumerate(flat):  # image 00, 01, ... in the folder itself
        Path("photos", name).rename(f"photos/image {index:02}.png")
    shutil.rmtree("photos/more")
    values = {"file": "image {:02}.png", "kind": "a", "taken by": "me", "split": "train", "a": "1", "b": "0"}
    rows = [
        tuple("b" if name == "kind" and row % 2 else values[name].format(row) for name in header) for row in range(30)
    ]
    write("labels.csv", header, [change.get(row, cells) for row, cells in enumerate(rows)])
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        read("labels.csv", **options)
    assert len(str(raised.value)) < 300


def test_classes_that_could_be_lists_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    rows, kinds = photos(), ["person", "animal|fur", "food", "food|fur"]
    write("tags.csv", ["file", "tags"], [(file, kinds[index % 4]) for index, (file, *_) in enumerate(rows)])
    assert read("tags.csv").task == "classification"
    said = " ".join(capfd.readouterr().err.split())
    assert "tags has 4 different values, so classes (--data.task multilabel splits them at |)" in said
    assert read("tags.csv", task="multilabel").class_names == ("animal", "food", "fur", "person")


def test_oddities_are_said_and_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    rows = photos()
    shutil.copy("photos/image 00.png", "photos/image 00.bmp")
    listed = [(file, "red" if index % 2 else "blue") for index, (file, *_) in enumerate(rows)]
    write("labels.csv", ["file", "kind"], [*listed[:50], (rows[0][0], "blue"), (rows[51][0], ""), ("gone.png", "red")])
    data = read("labels.csv", skip_broken=True)
    assert len(data._samples) == 50
    said = " ".join(capfd.readouterr().err.split())
    assert (
        "left out: labels.csv: row 52 (counted from 0, line 54) names gone.png, which is not an image in photos" in said
    )
    assert "labels.csv: 1 image is listed more than once, such as image 00.png in rows 0, 50" in said
    assert "left out: 11 images of photos without a label in labels.csv: image 00.bmp and 10 more" in said
    assert "left out: 1 row of labels.csv without kind" in said
    write("labels.csv", ["file", "kind"], [("image 00", "red"), *listed[2:]])
    with pytest.raises(
        ValueError, match=r"row 0 \(.*names image 00, which may be image 00\.bmp, image 00\.png: add the"
    ):
        read("labels.csv")


def test_a_missing_value_among_several_classes_leaves_its_image_out(capfd: pytest.CaptureFixture[str]) -> None:
    rows = photos()
    lists = [(file, "NA" if index in (3, 4) else "|".join(colors)) for index, (file, colors, _) in enumerate(rows)]
    write("lists.csv", ["file", "colors"], lists)
    data = read("lists.csv", missing="NA")
    unlabeled = {rows[3][0], rows[4][0]}
    assert {row[0] for row in rows} - {sample.file for sample in data._samples} == unlabeled
    assert data.class_names == ("blue", "green", "red")
    empty = sum(label == "" for _, label in lists)
    said = capfd.readouterr().err
    assert "left out: 2 rows of lists.csv without colors" in said
    assert f"lists.csv: {empty} rows without colors: taken as images that have none of the classes" in said

    columns = [[file, *(int(color in colors) for color in COLORS)] for file, colors, _ in rows]
    columns[3][2] = columns[3][3] = columns[4][1] = "NA"
    columns[5][1] = ""
    write("columns.csv", ["file", *COLORS], columns)
    data = read("columns.csv", missing="NA")
    assert {row[0] for row in rows} - {sample.file for sample in data._samples} == unlabeled
    expected = {file: [float(color in colors) for color in COLORS] for file, colors, _ in rows}
    expected[rows[5][0]][0] = 0.0
    assert by_file(data) == {file: expected[file] for file in by_file(data)}
    said = capfd.readouterr().err
    assert "columns.csv: left out 2 rows whose label columns are not all 0 or 1" in said
    assert "columns.csv: 1 empty cell counts as 0" in said
    write("columns.csv", ["file", *COLORS], [(file, 1, 0, "NA") for file, *_ in rows])
    with pytest.raises(ValueError, match=r"columns.csv has no row with 0 or 1 in each of red, green, blue$"):
        read("columns.csv", missing="NA")


@pytest.mark.parametrize("separator", [";", "|"])
def test_a_separator_in_the_name_of_a_class_is_not_a_list(separator: str) -> None:
    rows = photos()
    kinds = ["oak", f"elm{separator}ash"]
    write("kinds.csv", ["file", "kind"], [(file, kinds[index % 2]) for index, (file, *_) in enumerate(rows)])
    data = read("kinds.csv")
    assert (data.task, sorted(data.class_names)) == ("classification", sorted(kinds))
    assert read("kinds.csv", task="multilabel").class_names == ("ash", "elm", "oak")
    data.write_split(Path())
    again = ImageFolderDataModule("photos", split="split.csv")
    again.setup("fit")
    assert (again.task, by_file(again)) == (data.task, by_file(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda file: f"photos/{file}",
        lambda file: f"{Path.cwd()}/photos/{file}",
        lambda file: f"C:\\data\\{file}".replace("/", "\\"),
        lambda file: f"data/{file[:-4]}",
        lambda file: file.replace(".png", ".PNG").replace("image", "Image"),
    ],
)
def test_names_with_another_folder_or_case_are_found(change: Callable[[str], str]) -> None:
    rows = photos()
    write("labels.csv", ["id", "file"], [(index % 2, change(file)) for index, (file, *_) in enumerate(rows)])
    data = read("labels.csv")
    assert by_file(data) == {file: index % 2 for index, (file, *_) in enumerate(rows) if file in by_file(data)}
    assert len(data._samples) == 60


def test_names_that_are_not_found_are_shown_beside_a_file() -> None:
    rows = photos()
    write("labels.csv", ["kind", "file"], [("a", f"old_{file}") for file, *_ in rows])
    words = "labels.csv has no column with names of images in photos, such as image 00.png: file has old_image 00.png"
    with pytest.raises(ValueError, match=words):
        read("labels.csv")
    shutil.copy("photos/image 00.png", "photos/IMAGE 00.png")
    write("labels.csv", ["kind", "file"], [("a", "Image 00.png"), ("a", rows[1][0])])
    with pytest.raises(ValueError, match=r"row 0 \(.*names Image 00.png, which may be IMAGE 00.png, image 00.png: wr"):
        read("labels.csv")


@pytest.mark.parametrize("kind", ["weights", "lists", "classes"])
def test_the_split_file_of_a_run_has_the_labels_and_another_folder_its_own(kind: str) -> None:
    rows, others = photos(), photos(20, "others", "other")
    for name, listed, comma in (("photos", rows, "."), ("others", others, ",")):
        labels = {
            "weights": [f"{light:.3f} kg".replace(".", comma) for *_, light in listed],
            "lists": ["|".join(colors) for _, colors, _ in listed],
            "classes": [(colors or ["gray"])[0] for _, colors, _ in listed],
        }[kind]
        lines = [(row[0], label) for row, label in zip(listed, labels, strict=True)]
        write(f"{name}.csv", ["file", "label"], lines, ";")
    data = read("photos.csv")
    Path("run").mkdir()
    data.write_split(Path("run"))
    again = ImageFolderDataModule("photos", split="run/split.csv")
    again.setup("fit")
    assert (again.task, by_file(again)) == (data.task, by_file(data))
    if data.task != "regression":
        assert again.class_names == data.class_names

    other = ImageFolderDataModule("others", labels="others.csv", split="run/split.csv")
    other.load_state_dict(data.fitted)
    other.setup("test")
    lights = dict(zip(other.tested_rows(), other.test.labels.tolist(), strict=True))
    assert lights.keys() == {file for file, *_ in others}
    if kind == "weights":
        assert lights == {file: pytest.approx(light, abs=0.001) for file, _, light in others}
        unlabeled = ImageFolderDataModule("others", split="run/split.csv")
        unlabeled.load_state_dict(data.fitted)
        with pytest.raises(ValueError, match="needs a label file for the images in others: add --data"):
            unlabeled.setup("test")
    with pytest.raises(ValueError, match=r"--data.task (regression|multilabel): the checkpoint was trained for"):
        ImageFolderDataModule(
            "photos", labels="photos.csv", task="multilabel" if kind == "weights" else "regression"
        ).load_state_dict(data.fitted)


@pytest.mark.parametrize("kind", ["number", "list", "class"])
def test_other_labels_for_the_images_of_a_run_are_not_ignored(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = photos()
    pairs = [
        (file, {"number": f"{light:.3f} kg", "list": "|".join(colors), "class": (colors or ["gray"])[0]}[kind])
        for file, colors, light in rows
    ]
    write("labels.csv", ["file", "label"], pairs)
    data = read("labels.csv")
    data.write_split(Path())
    held_out = [sample.file for sample in data._samples if sample.split == "test"]

    def tested(**options: Any) -> list[object]:
        again = ImageFolderDataModule(options.pop("folder", "photos"), split="split.csv", **options)
        again.load_state_dict(data.state_dict())
        again.setup("test")
        return [*again.tested_rows()]

    capfd.readouterr()
    assert tested(labels="labels.csv") == held_out
    assert "has other labels" not in capfd.readouterr().err
    file, label = pairs[0]
    other = "1 kg" if kind == "number" else next(color for color in COLORS if color != label)
    write("corrected.csv", ["file", "label"], [(file, other), *pairs[1:]])
    message = f"corrected.csv has other labels than split.csv for 1 image, such as {file} ({other.split()[0]}, was "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tested(labels="corrected.csv")
    assert tested() == tested(labels="gone.csv") == held_out
    # Other images of the same names are those of another folder.
    shutil.copytree("photos", "others")
    for path in Path("others").rglob("*.png"):
        Image.fromarray(np.random.default_rng(int(path.stem[-2:])).integers(0, 9, (8, 8, 3), dtype=np.uint8)).save(path)
    assert len(tested(folder="others", labels="corrected.csv")) == len(rows)
    assert "others is not the folder that the model was trained on" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["number", "list", "class"])
def test_a_file_that_had_only_the_groups_of_a_run_is_not_compared(kind: str) -> None:
    """The labels were corrected in a `split.csv`."""
    pairs = [
        (file, {"number": f"{light:.3f}", "list": "|".join(colors), "class": (colors or ["gray"])[0]}[kind])
        for file, colors, light in photos()
    ]
    write("labels.csv", ["file", "label", "patient"], [(*pair, row // 3) for row, pair in enumerate(pairs)])
    data = read("labels.csv", groups="patient")
    data.write_split(Path())
    lines = Path("split.csv").read_text().splitlines()
    file, _, split = lines[1].split(",")
    lines[1] = ",".join([file, "55" if kind == "number" else "green" if "green" not in lines[1] else "blue", split])
    Path("split.csv").write_text("\n".join(lines))
    corrected = read("labels.csv", groups="patient", split="split.csv")
    again = ImageFolderDataModule("photos", labels="labels.csv", groups="patient", split="split.csv")
    again.load_state_dict(corrected.state_dict())
    again.setup("test")
    assert again.tested_rows() == [sample.file for sample in data._samples if sample.split == "test"]


def test_a_file_of_labels_that_became_unreadable_stops_no_test(capfd: pytest.CaptureFixture[str]) -> None:
    rows = photos()
    columns = [(file, *(int(color in colors) for color in COLORS)) for file, colors, _ in rows]
    write("labels.csv", ["file", *COLORS], columns)
    data = read("labels.csv")
    data.write_split(Path())
    write("labels.csv", ["file", *COLORS, "notes"], [(*row, "new") for row in columns])
    again = ImageFolderDataModule("photos", labels="labels.csv", split="split.csv")
    again.load_state_dict(data.state_dict())
    again.setup("test")
    assert again.tested_rows() == [sample.file for sample in data._samples if sample.split == "test"]
    assert "the labels of split.csv are used, as labels.csv can't be read: " in capfd.readouterr().err
    shutil.copy("labels.csv", "photos/labels.csv")
    with pytest.raises(ValueError, match="several columns that may be labels"):
        read("photos/labels.csv")
    assert "not used" not in capfd.readouterr().err
    Path("photos/labels.csv").unlink()
    for path in Path("photos").rglob("*.png"):  # other images of the same names have no labels then
        Image.effect_noise((8, 8), 50).save(path)
    others = ImageFolderDataModule("photos", labels="labels.csv", split="split.csv")
    others.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match="several columns that may be labels"):
        others.setup("test")


@pytest.mark.slow
def test_labels_that_a_given_split_file_replaced_in_training_stay_ignored(kindling: Command) -> None:
    names = [file for file, *_ in photos()]
    write("labels.csv", ["file", "label"], [(file, "ab"[row % 2]) for row, file in enumerate(names)])
    write("other.csv", ["file", "label"], [(file, "ba"[row % 2]) for row, file in enumerate(names)])
    read("labels.csv").write_split(Path())
    options = ["--data.labels", "other.csv", "--data.split", "split.csv", "--trainer.max_epochs", "1"]
    result = kindling("fit", *SMALL, *options)
    assert "other.csv is not read: split.csv has the labels and the splits" in result.err
    assert kindling("test", "--ckpt_path", "best").code == 0
    result = kindling("test", "--ckpt_path", "best", "--data.labels", "other.csv")
    assert (result.code, result.err.count("other.csv has other labels than runs/")) == (1, 1)


LISTS = [*SMALL, "--data.labels", "lists.csv", "--run_name", "lists", "--trainer.max_epochs", "4"]
WEIGHTS = [*SMALL, "--data.labels", "weights.csv", "--run_name", "weights", "--trainer.max_epochs", "4"]


@pytest.fixture
def files(folder: Path) -> list[tuple[str, list[str], float]]:
    rows = photos()
    write("lists.csv", ["file", "colors"], [(file, "|".join(colors)) for file, colors, _ in rows])
    write("weights.csv", ["file", "weight"], [(file, f"{light:.3f} kg") for file, _, light in rows])
    return rows


@pytest.fixture
def tags(files: list[Any], kindling: Command) -> Path:
    """A run on several classes per image."""
    assert kindling("fit", *LISTS).code == 0
    return Path("runs/lists/version_0")


def test_several_classes_go_from_a_file_to_predictions_of_new_images(
    kindling: Command, tags: Path, files: list[tuple[str, list[str], float]]
) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    tested = pd.read_csv(tags / "predictions.csv", keep_default_na=False)
    assert [*tested] == ["file", "label", "prediction", "blue", "green", "red"]
    names = ["blue", "green", "red"]
    truth = {file: colors for file, colors, _ in files}
    assert [sorted(filter(None, text.split("|"))) for text in tested.label] == [
        sorted(truth[file]) for file in tested.file
    ]
    assert tested.prediction.tolist() == [
        "|".join(name for name in names if row[name] >= 0.5) for _, row in tested.iterrows()
    ]
    has = np.array([[name in truth[file] for name in names] for file in tested.file])
    metrics = json.loads((tags / "test_metrics.json").read_text())
    assert metrics.keys() == {"test/loss", "test/map", "test/f1"}
    assert metrics["test/map"] == pytest.approx(average_precision_score(has, tested[names].to_numpy()), abs=1e-5)
    assert metrics["test/f1"] == pytest.approx(
        f1_score(has, tested[names].to_numpy() >= 0.5, average="macro"), abs=1e-5
    )
    split = pd.read_csv(tags / "split.csv", keep_default_na=False)
    assert [*split] == ["file", "classes", "split"]
    assert split[split.split == "test"].file.tolist() == tested.file.tolist()

    config = (tags / "config.yaml").read_text()
    assert "CNNMultiLabelClassifier" in config
    Path("lists.csv").unlink()  # the run needs its own files only
    before = (tags / "predictions.csv").read_text()
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert (tags / "predictions.csv").read_text() == before
    result = kindling("fit", "--ckpt_path", tags, "--trainer.max_epochs", "5")
    assert result.code == 0, result.err
    assert (tags / "split.csv").read_text() == split.to_csv(index=False)
    shutil.copytree("photos/more", "new")
    shutil.rmtree("photos")
    assert kindling("predict", "--ckpt_path", "best", "--data.predict", "new").code == 0
    new = pd.read_csv(tags / "predictions_new.csv", keep_default_na=False)
    assert ([*new], len(new)) == (["file", "prediction", *names], 30)


def test_numbers_of_images_resume_and_predict(kindling: Command, files: list[tuple[str, list[str], float]]) -> None:
    callback = json.dumps([{"class_path": "helpers.SignalAt", "init_args": {"step": 8}}])
    assert kindling("fit", *WEIGHTS).code == 0
    assert kindling("fit", *WEIGHTS, "--run_name", "cut", "--trainer.callbacks", callback).code == 1
    Path("weights.csv").unlink()
    result = kindling("fit", "--ckpt_path", "runs/cut", "--trainer.callbacks", "null")
    assert result.code == 0, result.err
    whole, cut = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True) for name in ("weights", "cut")
    )
    assert whole["hyper_parameters"]["_class_path"] == "kindling.models.cnn.CNNRegressor"
    assert all(torch.equal(value, cut["state_dict"][name]) for name, value in whole["state_dict"].items())
    run = Path("runs/weights/version_0")
    tested, weights = pd.read_csv(run / "predictions.csv"), {file: light for file, _, light in files}
    assert [*tested] == ["file", "target", "prediction"]
    assert tested.target.tolist() == pytest.approx([weights[file] for file in tested.file], abs=0.001)
    metrics = json.loads((run / "test_metrics.json").read_text())
    assert metrics["test/mae"] == pytest.approx((tested.target - tested.prediction).abs().mean(), rel=1e-4)
    assert [*pd.read_csv(run / "split.csv")] == ["file", "number", "split"]
    assert " kg</b>" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("fit", [LISTS, WEIGHTS], ids=["classes", "numbers"])
def test_diagnostics_and_early_stopping_work_for_each_task(
    kindling: Command, files: list[tuple[str, list[str], float]], fit: list[str]
) -> None:
    result = kindling("fit", *fit, "--overfit")
    assert (result.code, "can overfit one batch of 16 samples" in result.out + result.err) == (0, True), result.err
    result = kindling("fit", *fit, "--find_lr")
    assert (result.code, "learning rate" in result.out + result.err) == (0, True), result.err
    result = kindling(
        "fit", *fit, *"--early_stopping.patience 1 --model.optimizer.lr 0 --model.batch_norm false".split()
    )
    assert (result.code, "stopped early" in result.out + result.err) == (0, True), result.err
    listed = kindling("runs")
    assert (listed.code, fit[-3] in listed.out) == (0, True)
