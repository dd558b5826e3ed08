"""All images of a folder in their splits, and what is learned from them before they are decoded."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kindling.data.images.decode import in_parallel, inspect
from kindling.data.images.folder_checks import check_classes, find_training_levels
from kindling.data.images.labels import LabelOptions, find_labeled
from kindling.data.images.samples import Sample
from kindling.data.images.splits import check_split, make_image_splits

MAX_DEFAULT_SIZE = 224  # pixels; most published networks were trained with this size


class SplitImages:
    """The images of a folder, in the splits that the folder or a file defines, or that are drawn.

    Args:
        root: The folder.
        labels: File of labels; None for class folders.
        split: A `split.csv`.
        options: How to read the file of labels.
        fitted: The fitted state of the data module; empty before training.

    Attributes:
        labeled: The images as they are listed; those that are not split yet are in train.
    """

    def __init__(
        self, root: Path, labels: Path | None, split: Path | None, options: LabelOptions, fitted: Mapping[str, Any]
    ) -> None:
        self.root, self.source, self.is_split, self.fitted = root, labels or root, split is not None, fitted
        self.labeled = find_labeled(root, labels, split, options, fitted)
        self.listed = self.labeled.samples

    @cached_property
    def digests(self) -> dict[str, bytes]:
        """Digest of the content of each file."""
        return {sample.file: info.digest for sample, info in zip(self.listed, self._infos, strict=True)}

    @cached_property
    def sides(self) -> dict[str, int | None]:
        """Shorter side of each image in pixels; None if it is broken."""
        return {sample.file: info.side for sample, info in zip(self.listed, self._infos, strict=True)}

    def check_classes(self, usable: Sequence[Sample]) -> list[str]:
        """Return the classes in the order of the model's outputs; see `check_classes`."""
        if self.labeled.task == "regression":
            return []
        known = None if self.labeled.column is None else self.labeled.column.classes
        return check_classes(self.source, self.listed, usable, self.labeled.task, known)

    def draw(
        self, sizes: Mapping[str, int | float], seed: int, fold: str | None, image_size: int | None
    ) -> tuple[list[Sample], dict[str, Any]]:
        """Return the images in their splits, and what is learned from them, if anything is.

        Args:
            sizes: Size of each split, if it is not given.
            seed: Seed of the splits.
            fold: For cross-validation, the fold to test on.
            image_size: Height and width of the images; None for the usual size of the training images, or of all images
                if there are folds, whose models then have the same input shape.
        """
        classes = [] if self.fitted else self.check_classes(self.listed)
        samples, learned, labeled = self.listed, dict[str, Any](), self.labeled
        if self.is_split:
            labeled.constraints.check(np.array([sample.split for sample in samples], dtype=object))
        else:
            digests = [self.digests[sample.file] for sample in samples]
            samples = make_image_splits(samples, digests, sizes, seed, labeled.task, labeled.constraints, fold)
            if not any(sample.split == "test" for sample in self.listed):
                learned = {"split": check_split(self.root, samples, self.fitted)}
        if self.fitted:
            return samples, {}
        pairs = zip(self._infos, samples, strict=True)
        sides = [info.side for info, sample in pairs if info.side and (fold or sample.split == "train")]
        size = image_size or min(MAX_DEFAULT_SIZE, int(median(sides or [MAX_DEFAULT_SIZE])))
        levels = find_training_levels(self.root, self._infos, samples, seed)
        return samples, {"classes": classes, "image_size": size, "levels": levels, **learned, **labeled.learn(samples)}

    @cached_property
    def _infos(self) -> Any:
        return in_parallel(inspect, [str(self.root / sample.file) for sample in self.listed], "reading")
