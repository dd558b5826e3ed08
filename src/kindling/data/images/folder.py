"""The samples of an image folder and their splits, and `split.csv` files."""

import csv
import logging
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from kindling.data.datamodule import SPLITS
from kindling.data.images.scan import OUTSIDE, list_images, merge_unused, subfolders, warn_unused
from kindling.data.splitting import sample_groups
from kindling.utils.filetypes import FORMATS
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)

LAYOUT = "<class>/*.jpg or {train,val,test}/<class>/*.jpg"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ImageTask = Literal["classification", "regression", "multilabel"]
HEADERS: dict[ImageTask, str] = {"classification": "class", "regression": "number", "multilabel": "classes"}
SPLIT_SUFFIX = re.compile(r"[ _-]?(set|split|data|images)$")  # as in training_set


class Sample(NamedTuple):
    """An image: its path relative to the data folder, its class, number or classes as text, and its split."""

    file: str
    label: str
    split: str


def check_folder(root: Path) -> None:
    """Raise FileNotFoundError if the folder does not exist."""
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root} not found: set --data.data_dir to a folder with {LAYOUT}")


def find_samples(root: Path) -> list[Sample]:
    """List the labeled images of a folder; without split folders, all of them are in train."""
    check_folder(root)
    splits = split_folders(root)
    for name in subfolders(root) if splits else []:
        if name not in splits.values() and list_images(root / name).images:
            raise ValueError(
                f"{root / name} has images but is not a split like {join_names([*splits.values()])}: move or rename it"
            )
    if not splits:
        warn_swapped_levels(root)
    samples, unused = [], []
    for split, within in splits.items() or [("train", "")]:
        if not (labels := subfolders(root / within)):
            raise ValueError(f"{root / within} has no class folders: lay the images out as {LAYOUT}")
        for label in labels:
            place = (Path(within) / label).as_posix()
            found = list_images(root / place)
            if not found.images and split == "train":
                others = "".join(f"; {files[0]} is {reason}" for reason, files in [*found.unused.items()][:1])
                raise ValueError(f"{root / place} has no images ({join_names(FORMATS)}): add some or remove it{others}")
            samples += [Sample(f"{place}/{file}", label, split) for file in found.images]
            unused.append({reason: [f"{place}/{file}" for file in files] for reason, files in found.unused.items()})
    outside = {within: list_images(root / within, deep=False).images for within in {"", *splits.values()}}
    unused.append({OUTSIDE: [str(Path(within, file)) for within, files in outside.items() for file in files]})
    warn_unused(root, merge_unused(unused))
    return samples


def split_folders(root: Path) -> dict[str, str]:
    """Return the folder of each split, in the order of `SPLITS`; empty if the folders are classes."""
    found: dict[str, str] = {}
    for name in subfolders(root):
        split = SPLIT_NAMES.get(SPLIT_SUFFIX.sub("", name.lower()))
        if split and subfolders(root / name):
            if split in found:
                raise ValueError(f"{root} has two folders for the split {split}, {found[split]} and {name}: merge them")
            found[split] = name
    if {"train", "test"}.isdisjoint(found):
        return {}
    return {split: found[split] for split in SPLITS if split in found}


def warn_swapped_levels(root: Path) -> None:
    """Warn if all folders have subfolders of the same names: they may be splits, and the subfolders the classes."""
    folders = subfolders(root)
    inner = {tuple(subfolders(root / name)) for name in folders}
    if len(folders) > 1 and len(inner) == 1 and len(*inner) > 1:
        classes, others = join_names(folders, 3), join_names([*inner.pop()], 3)
        logger.warning(
            f"the classes of {root} are {classes}; if the classes are {others}, rename the folders to train and test"
        )


def make_splits(
    samples: Sequence[Sample],
    digests: Sequence[bytes],
    sizes: Mapping[str, int | float],
    seed: int,
    strata: Sequence[Hashable] = (),
) -> list[Sample]:
    """Move training images of each stratum to each split that has no images yet, at least one image but never all.

    Copies of an image (same digest) stay together. `sizes` are approximate numbers, or fractions as floats; `strata`
    are the classes by default.
    """
    strata = strata or [sample.label for sample in samples]
    given, splits = {sample.split for sample in samples}, [sample.split for sample in samples]
    for split in [name for name in sizes if name not in given]:
        owners: dict[bytes, Hashable] = {}  # the stratum of each image that is not a copy
        for stratum, digest, now in zip(strata, digests, splits, strict=True):
            if now == "train":
                owners.setdefault(digest, stratum)
        moved = sample_groups(owners, "images", split, sizes[split], seed)
        splits = [
            split if now == "train" and digest in moved else now for digest, now in zip(digests, splits, strict=True)
        ]
    return [sample._replace(split=split) for sample, split in zip(samples, splits, strict=True)]


def read_split(path: Path) -> tuple[ImageTask, list[Sample]]:
    """Read a `split.csv`: file, label and split of each image. The header of the labels tells the task."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: set --data.split to a CSV with columns file, class and split")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets may write a byte order mark
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error):
        header, rows = [], []
    samples = [Sample(*row) for row in rows if len(row) == 3]
    task = next((task for task, name in HEADERS.items() if header == ["file", name, "split"]), None)
    if task is None or len(samples) < len(rows) or {row.split for row in samples} - {*SPLITS}:
        raise ValueError(f"{path} must be a CSV with columns file, class and split; split must be train, val or test")
    if outside := [row.file for row in samples if row.file.startswith("/") or ".." in PurePath(row.file).parts]:
        raise ValueError(f"{path} lists files outside of the data folder: {join_names(outside, 1)}")
    if absent := [split for split in SPLITS if split not in {sample.split for sample in samples}]:
        raise ValueError(f"{path} has no images in {join_names(absent)}: add some to each of {', '.join(SPLITS)}")
    return task, samples
