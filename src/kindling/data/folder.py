"""A folder of labelled images: what lies in it, and which of it is for training, validation and test."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kindling.data.decode import SUFFIXES
from kindling.data.splits import draw

LAYOUT = "<class>/*.jpg or {train,val,test}/<class>/*.jpg"
SPLITS = ("train", "val", "test")


class Sample(NamedTuple):
    """One image: its file relative to the folder, its class, its split."""

    file: str
    label: str
    split: str


def check_folder(root: Path) -> None:
    """Raises FileNotFoundError where there is no such folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: name one with --data.data_dir that holds {LAYOUT}")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones aside."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path) -> list[str]:
    """Paths of the images in a folder, at any depth and relative to it; hidden files and folders aside."""
    found = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(where).relative_to(folder)
        chosen = [name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES and name[0] != "."]
        found += [(within / name).as_posix() for name in chosen]
    return sorted(found)


def find_samples(root: Path) -> list[Sample]:
    """Lists the images of a folder by class; without splits given by folders all of them are for training.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is laid out in another way, or a class has no images for training.
    """
    check_folder(root)
    folders = subfolders(root)
    splits = [split for split in SPLITS if split in folders and subfolders(root / split)]
    if not {"train", "test"}.intersection(splits):
        return labelled(root, "", "train")
    for name in folders:
        if name not in splits and image_files(root / name):
            raise ValueError(f"{root / name} has images but {root} is laid out as {LAYOUT}: move it elsewhere")
    return [sample for split in splits for sample in labelled(root, split, split)]


def labelled(root: Path, within: str, split: str) -> list[Sample]:
    """The images of one folder of classes."""
    samples = []
    labels = subfolders(root / within)
    if not labels:
        raise ValueError(f"{root / within} has no class folders: lay the images out as {LAYOUT}")
    for label in labels:
        place = Path(within) / label
        files = image_files(root / place)
        if not files and split == "train":
            raise ValueError(f"{root / place} has no images: put some in or remove the folder")
        samples += [Sample((place / file).as_posix(), label, split) for file in files]
    return samples


def carve(
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
    moved = draw(owners, "images", split, size, seed)
    return [
        sample._replace(split=split) if sample.split == "train" and digest in moved else sample
        for sample, digest in zip(samples, digests, strict=True)
    ]


def check_classes(root: Path, samples: Sequence[Sample]) -> list[str]:
    """The names of the classes, sorted.

    Raises:
        ValueError: If there are fewer than two, or one that can't be learnt for want of training images.
    """
    classes = sorted({sample.label for sample in samples if sample.split == "train"})
    if unknown := sorted({sample.label for sample in samples} - set(classes)):
        raise ValueError(f"{root} has no images of {some(unknown)} for training, but for validation or test")
    if len(classes) < 2:
        raise ValueError(f"{root} has images of {len(classes)} class, {some(classes)}: telling apart takes two or more")
    return classes


def warnings(samples: Sequence[Sample], digests: Sequence[bytes], classes: Sequence[str]) -> Iterator[str]:
    """What is odd about the splits but no obstacle, a line each."""
    for split in ("val", "test"):
        if missing := sorted(set(classes) - {sample.label for sample in samples if sample.split == split}):
            yield f"{split} has no images of {some(missing)}: there are too few, or none were given"
    copies = defaultdict(list)
    for sample, digest in zip(samples, digests, strict=True):
        copies[digest].append(sample)
    for column, what in ((2, "split"), (1, "class")):
        shared = [same for same in copies.values() if len({sample[column] for sample in same}) > 1]
        if shared:
            pairs = [" = ".join(sample.file for sample in same) for same in shared]
            yield f"the same image in more than one {what}: {some(pairs)}"


def read_split(path: Path) -> list[Sample]:
    """Reads a `split.csv`: file, class and split of each image.

    Raises:
        ValueError: If it is something else.
    """
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    samples = [Sample(*row) for row in rows if len(row) == 3]
    if header != ["file", "class", "split"] or len(samples) < len(rows) or {row.split for row in samples} - {*SPLITS}:
        raise ValueError(f"{path} is no list of file,class,split with the splits {', '.join(SPLITS)}")
    return samples


def write_split(path: Path, samples: Sequence[Sample]) -> None:
    """Writes what `read_split` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "class", "split"), *samples])


def some(names: Sequence[str]) -> str:
    """The first few names, and how many there are beside."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
