"""Errors and warnings about a folder of labeled images, reported before training."""

import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from kindling.data.images.bit_depth import find_levels
from kindling.data.images.image_info import ImageInfo
from kindling.data.images.samples import ImageTask, Sample
from kindling.data.images.scan import subfolders
from kindling.data.images.targets import classes_in
from kindling.utils.filetypes import FORMATS
from kindling.utils.text import count_part, join_names

logger = logging.getLogger(__name__)


def check_classes(
    root: Path,
    found: Sequence[Sample],
    usable: Sequence[Sample],
    task: ImageTask,
    known: Sequence[str] | None,
) -> list[str]:
    """Return the names of the classes in the order of the model's outputs.

    Args:
        root: Folder or label file, for messages.
        found: All images.
        usable: The images not known to be broken.
        task: Whether an image has one class or several.
        known: The classes in a label file; None for those of the images, sorted.

    Raises:
        ValueError: If there are fewer than two classes, or one of them has no training images.
    """
    classes = sorted({name for sample in found for name in classes_in(sample.label, task)})
    if known is not None:
        classes = [name for name in known if task == "multilabel" or name in {*classes}]
    trained = {name for sample in usable if sample.split == "train" for name in classes_in(sample.label, task)}
    if untrained := [name for name in classes if name not in trained]:
        where = "the folder" if root.is_dir() else "the class"
        raise ValueError(
            f"{root} has no usable training images of {join_names(untrained, 3)}: add some or remove {where}"
        )
    if len(classes) < 2 and task == "classification":
        folder = root / "".join(classes)
        inner = subfolders(folder) if folder.is_dir() else []
        hint = f"; if the classes are {join_names(inner, 3)}, use --data.data_dir {folder}" if inner else ""
        if not inner and root.is_dir():
            hint = "; if a file holds the labels, add --data.labels FILE"
        raise ValueError(f"{root} has only one class ({folder.name}); a classifier needs at least two classes{hint}")
    return classes


def warn_oddities(samples: Sequence[Sample], digests: Sequence[bytes], classes: Sequence[str], task: ImageTask) -> None:
    """Warn about classes without images in a split, and about duplicate images."""
    for split in ("val", "test"):
        found = {name for sample in samples if sample.split == split for name in classes_in(sample.label, task)}
        if missing := [name for name in classes if name not in found]:
            logger.warning(f"{split} has no images of {join_names(missing, 3)}")
    copies = defaultdict(list)
    for sample, digest in zip(samples, digests, strict=True):
        copies[digest].append(sample)
    what_label = "class" if task == "classification" else "label"
    for field, what in (("split", "split"), ("label", what_label)):
        if differing := [same for same in copies.values() if len({getattr(sample, field) for sample in same}) > 1]:
            pairs = [" = ".join(sample.file for sample in same) for same in differing]
            logger.warning(f"the same image in more than one {what}: {join_names(pairs, 3)}")


def find_training_levels(
    root: Path, infos: Sequence[ImageInfo], samples: Sequence[Sample], seed: int, threads: int
) -> list[int] | None:
    """Return the range of at most 1,000 16-bit training images, read in threads; None to keep all 65,536 values.

    Warns if only some training images have 16 bits, as they are scaled differently.
    """
    images = [(sample, info) for sample, info in zip(samples, infos, strict=True) if sample.split == "train"]
    readable = [(sample, info) for sample, info in images if info.side]
    deep = [str(root / sample.file) for sample, info in images if info.deep]
    if 0 < len(deep) < len(readable):
        shallow = {sample.label for sample, info in readable if not info.deep}
        only_deep = {sample.label for sample, _ in readable} - shallow
        leak = f"; all images of {join_names(sorted(only_deep), 3)} have 16 bits, so the bit depth may leak the class"
        share = count_part(len(deep), len(readable), "training images", "has", "have")
        logger.warning(f"{share} 16 bits per channel, the others 8{leak if only_deep else ''}")
    if levels := find_levels(random.Random(seed).sample(deep, min(len(deep), 1000)), threads):
        logger.warning(f"16-bit images: the training range, {levels[0]:,} to {levels[1]:,}, is scaled to 0 to 255")
    return levels


def report_broken(root: Path, samples: Sequence[Sample], faults: Sequence[str]) -> str:
    """Warn about images with a fault, one line each, and return a summary; empty if there are none.

    Raises:
        ValueError: If there are no images, or all are broken.
    """
    broken = {str(root / sample.file): fault for sample, fault in zip(samples, faults, strict=True) if fault}
    for path, fault in broken.items():
        logger.warning(f"{path}: {fault}")
    what = f"{len(broken):,} of {len(samples):,} images can't be used: {join_names([*broken], 3)}"
    if not samples:
        raise ValueError(f"{root} has no images ({join_names(FORMATS)})")
    if len(broken) == len(samples):
        raise ValueError(f"{what}; use other files")
    return what if broken else ""


def drop_broken(root: Path, samples: Sequence[Sample], faults: Sequence[str], skip: bool) -> list[Sample]:
    """Return the images without a fault, and warn about the others, see `report_broken`.

    Raises:
        ValueError: If there are no images, all are broken, or some are and `skip` is off.
    """
    what = report_broken(root, samples, faults)
    if what and not skip:
        raise ValueError(f"{what}; replace them, or skip them with --data.skip_broken true")
    if what:
        logger.warning(f"skipped: {what}")
    return [sample for sample, fault in zip(samples, faults, strict=True) if not fault]
