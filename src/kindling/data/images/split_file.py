"""The `split.csv` of images: the label and the split of each."""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePath

from kindling.data.datamodule import SPLITS
from kindling.data.images.samples import ImageTask, Sample
from kindling.utils.files import atomic_write
from kindling.utils.text import join_names, suggest_path

HEADERS: dict[ImageTask, str] = {"classification": "class", "regression": "number", "multilabel": "classes"}


def read_image_split(path: Path, needed: Sequence[str] = SPLITS) -> tuple[ImageTask, list[Sample]]:
    """Read a `split.csv`: file, label and split of each image. The header of the labels tells the task.

    Raises:
        ValueError: If it is not such a file, or has no images in one of the `needed` splits.
    """
    if not path.is_file():
        advice = suggest_path(path, Path.is_file) or ": set --data.split to a CSV with columns file, class and split"
        raise FileNotFoundError(f"{path} not found{advice}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets may write a byte order mark
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error):
        header, rows = [], []
    samples = [Sample(*row) for row in rows if len(row) == 3]
    task = next((task for task, name in HEADERS.items() if header == ["file", name, "split"]), None)
    if task is None or len(samples) < len(rows) or {row.split for row in samples} - {*SPLITS}:
        raise ValueError(f"{path} must be a CSV with columns file, class and split; split must be train, val or test")
    files = [PurePath(row.file) for row in samples]  # on Windows, they may have a drive
    if outside := [file.as_posix() for file in files if file.anchor or ".." in file.parts]:
        raise ValueError(f"{path} lists files outside of the data folder: {join_names(outside, 1)}")
    if absent := [split for split in needed if split not in {sample.split for sample in samples}]:
        raise ValueError(f"{path} has no images in {join_names(absent)}: add some to each of {', '.join(SPLITS)}")
    return task, samples


def write_image_split(file: Path, task: ImageTask, samples: Sequence[Sample]) -> None:
    """Write images with their splits as a `split.csv`."""
    with atomic_write(file) as path, path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("file", HEADERS[task], "split"), *samples])
