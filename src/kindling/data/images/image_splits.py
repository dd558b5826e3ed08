"""All images of a folder in their splits, and what is learned from them before they are decoded."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kindling.data.images.decode import in_parallel
from kindling.data.images.find_labeled import find_labeled
from kindling.data.images.folder_checks import check_classes, find_training_levels
from kindling.data.images.image_info import ImageInfo, inspect
from kindling.data.images.labels import LabelOptions
from kindling.data.images.samples import Sample
from kindling.data.images.splits import check_split, make_image_splits
from kindling.data.images.trained import TRAINED, are_unknown, check_unseen, digest_trained, warn_same_names

logger = logging.getLogger(__name__)

MAX_DEFAULT_SIZE = 224  # pixels; most published networks were trained with this size


class SplitImages:
    """The images of a folder, in the splits that the folder or a file defines, or that are drawn.

    Args:
        root: The folder.
        labels: Label file; None for class folders.
        split: A `split.csv`.
        options: How to read the label file.
        fitted: The fitted state of the data module; empty before training.
        cores: Number of threads that read files.

    Attributes:
        labeled: The images as they are listed; those that are not split yet are in train.
    """

    def __init__(
        self,
        root: Path,
        labels: Path | None,
        split: Path | None,
        options: LabelOptions,
        fitted: Mapping[str, Any],
        cores: int,
    ) -> None:
        self.cores = cores
        self.root, self.source, self.has_split_file, self.fitted = root, labels or root, split is not None, fitted
        self.labeled = find_labeled(root, labels, split, options, fitted)
        self.listed = self._as_test() if self.labeled.is_other else self.labeled.samples

    @cached_property
    def digests(self) -> dict[str, bytes]:
        """Digest of the content of each file."""
        return {file: info.digest for file, info in self.infos.items()}

    def check_unseen(self, samples: Sequence[Sample], fitted: Mapping[str, Any]) -> None:
        """Raise ValueError if the model was trained on some of the images."""
        if TRAINED not in fitted or not samples:  # a checkpoint of version 0.1.0 has no digests
            return
        known = self.infos if "infos" in self.__dict__ else self._inspect(samples)
        check_unseen(self.root, samples, [known[sample.file].digest for sample in samples], fitted)

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
        if self.has_split_file:
            labeled.constraints.check(np.array([sample.split for sample in samples], dtype=object))
        else:
            if self.fitted and "split" not in self.fitted:  # training drew no splits
                return self._as_test(), {}
            digests = [*self.digests.values()]
            is_unknown = are_unknown(self.fitted, digests)
            try:
                samples = make_image_splits(samples, digests, sizes, seed, labeled.task, labeled.constraints, fold)
                if samples != self.listed:
                    learned = {"split": check_split(self.root, self.listed, samples, self.fitted)}
            except ValueError:
                if not is_unknown:
                    raise
                return self._as_test(), {}
            if is_unknown and learned:
                warn_same_names(self.root, "the training images", None if self.source == self.root else self.source)
        if self.fitted:
            return samples, {}
        infos = [*self.infos.values()]
        pairs = zip(infos, samples, strict=True)
        sides = [info.side for info, sample in pairs if info.side and (fold or sample.split == "train")]
        size = image_size or min(MAX_DEFAULT_SIZE, int(median(sides or [MAX_DEFAULT_SIZE])))
        levels = find_training_levels(self.root, infos, samples, seed, self.cores)
        learned |= digest_trained(samples, [info.digest for info in infos])
        return samples, {"classes": classes, "image_size": size, "levels": levels, **learned, **labeled.learn(samples)}

    def _as_test(self) -> list[Sample]:
        """Return the images of a folder that has nothing to do with training: without given splits, all are in test."""
        listed = self.labeled.samples
        if any(sample.split != "train" for sample in listed):
            return listed
        logger.warning(
            f"{self.root} is not the folder that the model was trained on: all of its {len(listed):,} images are used "
            "for testing"
        )
        return [sample._replace(split="test") for sample in listed]

    @cached_property
    def infos(self) -> dict[str, ImageInfo]:
        """Properties of each file, in the order of the images."""
        return self._inspect(self.listed)

    def _inspect(self, samples: Sequence[Sample]) -> dict[str, ImageInfo]:
        files = [sample.file for sample in samples]
        infos = in_parallel(inspect, [str(self.root / file) for file in files], "reading", self.cores)
        return dict(zip(files, infos, strict=True))
