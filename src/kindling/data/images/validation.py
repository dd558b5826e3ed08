"""What is wrong or odd about a folder of labelled images, said before the training."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kindling.data.images.folder import Sample
from kindling.data.images.scan import subfolders
from kindling.utils.filetypes import FORMATS
from kindling.utils.text import join_names

logger = logging.getLogger(__name__)


def check_classes(root: Path, found: Sequence[Sample], usable: Sequence[Sample]) -> list[str]:
    """The names of the classes, sorted.

    Args:
        root: The folder.
        found: All images.
        usable: Those that are not broken, as far as that is known.

    Raises:
        ValueError: If there are fewer than two, or one that can't be learnt for want of training images.
    """
    classes = sorted({sample.label for sample in found})
    if untrained := sorted({*classes} - {sample.label for sample in usable if sample.split == "train"}):
        raise ValueError(
            f"{root} has no usable training images of {join_names(untrained, 3)}: add some or remove the folder"
        )
    if len(classes) < 2:
        inner = root / "".join(classes)
        within = inner.is_dir() and subfolders(inner)
        hint = f"; if its classes are {join_names(within, 3)}, give --data.data_dir {inner}" if within else ""
        raise ValueError(f"{root} has images of 1 class, {inner.name}: telling apart takes two or more{hint}")
    return classes


def check_split(root: Path, samples: Sequence[Sample], fitted: Mapping[str, Any]) -> str:
    """The fingerprint of a split that was made here.

    Raises:
        ValueError: If it is not the one that a checkpoint was trained with.
    """
    split = blake2b(repr(samples).encode(), digest_size=16).hexdigest()
    if fitted.get("split", split) != split:
        raise ValueError(
            f"{root} has other images than the checkpoint was trained on: so that no test is of those, give "
            "the split.csv of its run with --data.split, or a folder with test/"
        )
    return split


def warnings(samples: Sequence[Sample], digests: Sequence[bytes], classes: Sequence[str]) -> Iterator[str]:
    """What is odd about the splits but no obstacle, a line each."""
    for split in ("val", "test"):
        if missing := sorted(set(classes) - {sample.label for sample in samples if sample.split == split}):
            yield f"{split} has no images of {join_names(missing, 3)}: there are too few, or none were given"
    copies = defaultdict(list)
    for sample, digest in zip(samples, digests, strict=True):
        copies[digest].append(sample)
    for column, what in ((2, "split"), (1, "class")):
        shared = [same for same in copies.values() if len({sample[column] for sample in same}) > 1]
        if shared:
            pairs = [" = ".join(sample.file for sample in same) for same in shared]
            yield f"the same image in more than one {what}: {join_names(pairs, 3)}"


def tell_depths(images: Sequence[tuple[str, bool]]) -> None:
    """Say that some training images have 16 bits a channel and others 8, which are scaled differently.

    Args:
        images: The class of each, and whether it has 16 bits.
    """
    deep = sum(is_deep for _, is_deep in images)
    if deep in (0, len(images)):
        return
    depths = defaultdict(set)
    for label, is_deep in images:
        depths[label].add(is_deep)
    whole = sorted(label for label, found in depths.items() if found == {True})
    hint = f", and all those of {join_names(whole, 3)}: the depth may give the class away" if whole else ""
    logger.warning(f"{deep:,} of {len(images):,} training images have 16 bits, the others 8{hint}")


def whole_ones(root: Path, samples: Sequence[Sample], faults: Sequence[str], skip: bool) -> list[Sample]:
    """Leave out images that can't be used, broken ones or too large ones, or refuse them; print why, a line each.

    Args:
        root: Their folder.
        samples: The images.
        faults: What is wrong with each; empty for those that can be used.
        skip: Whether to leave them out.

    Raises:
        ValueError: If there are some and they are not to be left out, or nothing else is there.
    """
    broken = {str(root / sample.file): fault for sample, fault in zip(samples, faults, strict=True) if fault}
    for path, fault in broken.items():
        logger.warning(f"{path}: {fault}")
    what = f"{len(broken):,} of {len(samples):,} images can't be used: {join_names([*broken], 3)}"
    if not samples:
        raise ValueError(f"{root} has no images ({join_names(FORMATS)})")
    if len(broken) == len(samples):
        raise ValueError(f"{what}; give others")
    if broken and not skip:
        raise ValueError(f"{what}; replace them or leave them out with --data.skip_broken true")
    if broken:
        logger.warning(f"left out: {what}")
    return [sample for sample, fault in zip(samples, faults, strict=True) if not fault]
