"""The splits of images: given by folders or a column, or drawn."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kindling.data.array_types import Indices
from kindling.data.datamodule import SPLITS
from kindling.data.folds import draw_fold
from kindling.data.images.samples import ImageTask, Sample
from kindling.data.images.scan import subfolders
from kindling.data.images.targets import strata_of
from kindling.data.split_constraints import SplitConstraints
from kindling.data.splitting import draw_splits
from kindling.data.tables.cells import name_cells, read_cells
from kindling.data.tables.files import locate_row

if TYPE_CHECKING:
    from pandas import DataFrame

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_SUFFIX = re.compile(r"[ _-]?(set|split|data|images)$")  # as in training_set


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


def read_split_column(path: Path, frame: "DataFrame", name: str) -> list[str]:
    """Return the split of each row."""
    codes, names = name_cells(read_cells(frame[name]))
    splits = [SPLIT_NAMES.get(each.lower()) for each in names]
    for row, code in enumerate(codes.tolist()):
        if code < 0 or splits[code] is None:
            found = names[code] if code >= 0 else "nothing"
            raise ValueError(
                f"{path}: {locate_row(path, frame, row)} has {found} in the column {name}, not {', '.join(SPLITS)}"
            )
    return [str(splits[code]) for code in codes.tolist()]


def make_image_splits(
    samples: Sequence[Sample],
    digests: Sequence[bytes],
    sizes: Mapping[str, int | float],
    seed: int,
    task: ImageTask = "classification",
    constraints: SplitConstraints = SplitConstraints(noun="images"),  # noqa: B008 (it is frozen)
    fold: str | None = None,
) -> list[Sample]:
    """Move training images to each split that has no images yet: of each stratum at least one image but never all.

    Args:
        samples: The images; those that are not split yet are in train.
        digests: Digest of each image; duplicates stay together, unless times decide.
        sizes: Size of each split: an approximate number, or a fraction as a float.
        seed: Seed of the draw.
        task: What the labels are for.
        constraints: Groups and times of the images.
        fold: For cross-validation, the fold to test on.

    Raises:
        ValueError: If given splits break the constraints, or the splits can't be drawn.
    """
    splits = np.array([sample.split for sample in samples], dtype=object)
    constraints = replace(constraints, names=[sample.file for sample in samples])
    constraints.check(splits)
    missing = {split: size for split, size in sizes.items() if split not in splits}
    if fold and len(missing) < len(sizes):
        raise ValueError(f"`fold` {fold} and the given splits both define the test images: leave out --data.fold")
    if not missing:
        return [*samples]
    free = np.flatnonzero(splits == "train")
    constraints = constraints.select(free)
    strata = strata_of([sample.label for sample in samples], task)
    labels, names = _codes([strata[index] for index in free.tolist()])
    copies, _ = _codes([digests[index] for index in free.tolist()])
    units = positions = np.arange(len(free))
    if constraints.groups:
        constraints = constraints.keep_together(copies)
    elif not constraints.times:
        _, units, positions = np.unique(copies, return_index=True, return_inverse=True)
        constraints = constraints.select(units)
    are_classes = task != "regression"
    if fold:
        drawn = draw_fold(labels[units], fold, sizes["val"], seed, constraints, are_classes)
    else:
        drawn = draw_splits(labels[units], missing, seed, constraints, are_classes)
    if task == "classification":
        constraints.check_classes(labels[units], [*map(str, names)], drawn)
    splits[free] = drawn[positions]
    return [sample._replace(split=split) for sample, split in zip(samples, splits, strict=True)]


def _codes(values: Sequence[Hashable]) -> tuple[Indices, list[Hashable]]:
    """Return the index of each value among the different ones, (N,); and these, in order of appearance."""
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(value, len(index)) for value in values], dtype=np.int64), [*index]


def check_split(root: Path, listed: Sequence[Sample], samples: Sequence[Sample], fitted: Mapping[str, Any]) -> str:
    """Return the hash of drawn splits, without given test images; raise ValueError if it differs from training.

    Args:
        root: The folder.
        listed: The images in the given splits.
        samples: The images in their final splits.
        fitted: What the data module has learned.
    """
    has_test = any(sample.split == "test" for sample in listed)
    drawn = [sample for sample in samples if not (has_test and sample.split == "test")]
    split = blake2b(repr(drawn).encode(), digest_size=16).hexdigest()
    if fitted.get("split", split) != split:
        use, folder = ("validated", "val/") if has_test else ("tested", "test/")
        raise ValueError(
            f"{root} has other images than the checkpoint was trained on, so training images could be {use}: set "
            f"--data.split to the split.csv of its run, or use a folder with {folder}"
        )
    return split
