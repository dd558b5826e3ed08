"""A folder of labelled images: which of it is for training, validation and test."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from kindling.data.datamodule import SPLITS
from kindling.data.images.scan import OUTSIDE, list_images, merged, say_unused, subfolders
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


SET = re.compile(r"[ _-]?(set|split|data|images)$")  # as in training_set


class Sample(NamedTuple):
    """One image: its file relative to the folder, its class, its split."""

    file: str
    label: str
    split: str


def check_folder(root: Path) -> None:
    """Raises FileNotFoundError where there is no such folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: name one with --data.data_dir that holds {LAYOUT}")


def find_samples(root: Path) -> list[Sample]:
    """List the images of a folder by class; without splits given by folders all of them are for training.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is laid out in another way, or a class has no images for training.
    """
    check_folder(root)
    splits = split_folders(root)
    for name in subfolders(root) if splits else []:
        if name not in splits.values() and list_images(root / name).images:
            raise ValueError(
                f"{root / name} has images but is no split beside {join_names([*splits.values()])}: move or rename it"
            )
    if not splits:
        tell_alike(root)
    samples, unused = [], []
    for split, within in splits.items() or [("train", "")]:
        for label in class_folders(root / within):
            place = (Path(within) / label).as_posix()
            found = list_images(root / place)
            if not found.images and split == "train":
                others = "".join(f"; {files[0]} is {reason}" for reason, files in [*found.unused.items()][:1])
                raise ValueError(f"{root / place} has no images ({join_names(FORMATS)}): add some or remove it{others}")
            samples += [Sample(f"{place}/{file}", label, split) for file in found.images]
            unused.append({reason: [f"{place}/{file}" for file in files] for reason, files in found.unused.items()})
    outside = {within: list_images(root / within, deep=False).images for within in {"", *splits.values()}}
    unused.append({OUTSIDE: [str(Path(within, file)) for within, files in outside.items() for file in files]})
    say_unused(root, merged(unused))
    return samples


def split_folders(root: Path) -> dict[str, str]:
    """The folders of classes by split, in the order of the splits; empty where the folders are classes themselves.

    Raises:
        ValueError: If two folders could be the same split.
    """
    found: dict[str, str] = {}
    for name in subfolders(root):
        split = SPLIT_NAMES.get(SET.sub("", name.lower()))
        if split and subfolders(root / name):
            if split in found:
                raise ValueError(f"{root} has two folders for the split {split}, {found[split]} and {name}: merge them")
            found[split] = name
    if {"train", "test"}.isdisjoint(found):
        return {}
    return {split: found[split] for split in SPLITS if split in found}


def tell_alike(root: Path) -> None:
    """Say that folders which hold folders of the same names may be splits, and those the classes."""
    folders = subfolders(root)
    inner = {tuple(subfolders(root / name)) for name in folders}
    if len(folders) > 1 and len(inner) == 1 and len(*inner) > 1:
        classes, others = join_names(folders, 3), join_names([*inner.pop()], 3)
        logger.warning(
            f"the classes of {root} are {classes}; if they are {others}, rename the folders to train and test"
        )


def class_folders(root: Path) -> list[str]:
    """The names of the class folders in a folder.

    Raises:
        ValueError: If there are none.
    """
    if labels := subfolders(root):
        return labels
    raise ValueError(f"{root} has no class folders: lay the images out as {LAYOUT}")


def move_to_split(
    samples: Sequence[Sample], digests: Sequence[bytes], split: str, size: int | float, seed: int
) -> list[Sample]:
    """Moves a share of the training images of each class to another split, at least one but never the last.

    Copies of an image move together with it.

    Args:
        samples: All images.
        digests: What is the same for copies.
        split: Where they go: val or test.
        size: Number of training images to move, about, or as a float, their share.
        seed: Seed of the choice.

    Raises:
        ValueError: If nothing would move, or nothing stay.
    """
    owners: dict[bytes, str] = {}  # the class of each image that is not a copy
    for sample, digest in zip(samples, digests, strict=True):
        if sample.split == "train":
            owners.setdefault(digest, sample.label)
    moved = sample_groups(owners, "images", split, size, seed)
    return [
        sample._replace(split=split) if sample.split == "train" and digest in moved else sample
        for sample, digest in zip(samples, digests, strict=True)
    ]


def make_splits(
    samples: Sequence[Sample], digests: Sequence[bytes], sizes: Mapping[str, int | float], seed: int
) -> list[Sample]:
    """Carves those of the splits out of the training images that have none; see `carve`."""
    given = {sample.split for sample in samples}
    for split, size in sizes.items():
        if split not in given:
            samples = move_to_split(samples, digests, split, size, seed)
    return list(samples)


def labels_of(samples: Sequence[Sample], classes: Sequence[str], root: Path) -> list[int]:
    """The numbers of the samples' classes.

    Raises:
        ValueError: If one is of another class.
    """
    number = {name: label for label, name in enumerate(classes)}
    if unknown := sorted({sample.label for sample in samples} - number.keys()):
        raise ValueError(f"{root} has {join_names(unknown, 3)}, the model knows {join_names(classes)} alone")
    return [number[sample.label] for sample in samples]


def find_split(file: Path, root: Path, trained: bool) -> list[Sample]:
    """Lists the images of a folder as a `split.csv` has them.

    Args:
        file: The list.
        root: The folder.
        trained: Whether there is a model to test. Then the folder may be another one than the list is of: all that it
            does not set apart by itself is for testing.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If one does not fit the other, or a split has no images.
    """
    check_folder(root)
    samples = read_split(file)
    missing = [sample.file for sample in samples if not (root / sample.file).exists()]
    if missing and len(missing) == len(samples) and trained:
        logger.warning(f"{root} is not the folder of {file}: all that it does not set apart is for testing")
        found = find_samples(root)
        given = any(sample.split == "test" for sample in found)
        return found if given else [sample._replace(split="test") for sample in found]
    if missing:
        raise ValueError(f"{file} names what is not in {root}: {join_names(missing, 3)}")
    return samples


def read_split(path: Path) -> list[Sample]:
    """Reads a `split.csv`: file, class and split of each image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or a split has no images.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: name a list of file,class,split with --data.split")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # a spreadsheet may put a mark at the beginning
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error):
        header, rows = [], []
    samples = [Sample(*row) for row in rows if len(row) == 3]
    if header != ["file", "class", "split"] or len(samples) < len(rows) or {row.split for row in samples} - {*SPLITS}:
        raise ValueError(f"{path} is no list of file,class,split with the splits {', '.join(SPLITS)}")
    if outside := [row.file for row in samples if row.file.startswith("/") or ".." in PurePath(row.file).parts]:
        raise ValueError(f"{path} names files outside of the data folder: {join_names(outside, 1)}")
    if absent := [split for split in SPLITS if split not in {sample.split for sample in samples}]:
        raise ValueError(f"{path} puts no image into {join_names(absent)}: name some for each of {', '.join(SPLITS)}")
    return samples


def write_split(path: Path, samples: Sequence[Sample]) -> None:
    """Writes what `read_split` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "class", "split"), *samples])
