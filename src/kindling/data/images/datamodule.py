"""A folder of images, a folder a class."""

import logging
import os
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from kindling.data.augment import random_affine, random_colour, random_flip
from kindling.data.datamodule import SPLITS, ArrayDataset, Batch, ClassificationDataModule, Split
from kindling.data.images.decode import (
    ImageInfo,
    channel_moments,
    find_levels,
    in_parallel,
    inspect,
    read_images,
    tell_small_range,
)
from kindling.data.images.folder import (
    Sample,
    check_folder,
    find_samples,
    find_split,
    labels_of,
    make_splits,
    write_split,
)
from kindling.data.images.scan import list_images, say_unused
from kindling.data.images.validation import check_classes, check_split, tell_depths, warnings, whole_ones
from kindling.utils.console import progress
from kindling.utils.files import atomic_write

logger = logging.getLogger(__name__)

LARGEST_SIZE = 224  # pixels; what most published networks were trained with


class ImageFolderDataModule(ClassificationDataModule):
    """Images laid out as `<class>/*.jpg` or `{train,val,test}/<class>/*.jpg`, in colour, all of one size.

    Takes JPEG, PNG, WebP, BMP and GIF (its first frame), recognised by suffix or content. If 16-bit images use less
    than half of their values, the range of the training images is scaled to 8 bits. Splits that the folder does not
    give are made: stratified, with copies of an image kept together, and written into the run folder as `split.csv`.
    The images are decoded once and kept in memory where they fit, else decoded batch by batch by worker processes.

    Args:
        data_dir: The folder.
        image_size: Height and width to which images are resized, the longer side cut at its ends; by default the median
            of the shorter sides of the training images, at most 224.
        split: A `split.csv` (file,class,split) that says what is in which split.
        test_split: Images (or as a float, their share) held out for testing where the folder has no test split.
        predict: A folder of images, or one image, to predict; by default the test split.
        skip_broken: Whether to leave out images that are broken or too large, in place of stopping.
        memory_gb: Memory for the images of training and validation, and again for those of the test, in GB.
        flip: Augmentation: whether to mirror half of the images, left to right.
        crop: Augmentation: smallest share of the area that is kept, at any place; 1 keeps all of it.
        colour: Augmentation: largest change of brightness, contrast and saturation; 0.2 draws factors from 0.8 to 1.2.
        degrees: Augmentation: largest rotation to either side.
        shift: Augmentation: largest shift along each axis, as a share of its length.
        scale: Augmentation: largest change of size; 0.1 draws factors from 0.9 to 1.1.
        eval_batch_size: Images in a batch of validation, test and prediction.
        **loading: Batches and validation split, see `ClassificationDataModule`; each class gives its share of the
            validation split, at least one image. Images that don't fit in memory get a worker for each core.

    Raises:
        ValueError: If an argument is out of its range.
    """

    row_header = "file"

    def __init__(
        self,
        data_dir: str | Path,
        image_size: int | None = None,
        split: str | Path | None = None,
        test_split: int | float = 0.2,
        predict: str | Path | None = None,
        skip_broken: bool = False,
        memory_gb: float = 4.0,
        flip: bool = False,
        crop: float = 1.0,
        colour: float = 0.0,
        degrees: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        eval_batch_size: int = 128,
        **loading: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **loading)
        ranges = {"crop": (0.01, 1), "colour": (0, 1), "degrees": (0, 180), "shift": (0, 1), "scale": (0, 0.99)}
        for name, (least, most) in ranges.items():
            if not least <= self.hparams[name] <= most:
                raise ValueError(f"{name} must be from {least} to {most}, not {self.hparams[name]}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {image_size}")
        self.data_dir = Path(data_dir)
        self.image_size = image_size
        self.split = split
        self.test_split = test_split
        self.predict = predict
        self.skip_broken = skip_broken
        self.memory_gb = memory_gb
        self.flip, self.crop, self.colour = flip, crop, colour
        self.degrees, self.shift, self.scale = degrees, shift, scale

    @property
    def augments(self) -> bool:  # type: ignore[override]
        """Whether any augmentation is on."""
        return bool(self.flip or self.crop < 1 or self.colour or self.degrees or self.shift or self.scale)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the class folders, sorted."""
        return tuple(self._learned["classes"])

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Channels, height and width of an image as the model receives it."""
        size = self.image_size or self._learned["image_size"]
        return 3, size, size

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training images by channel; of 1,000 of them where they don't fit in memory."""
        return tuple(self._moments[0].tolist())

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the same images by channel; 1 where they are constant."""
        return tuple(self._moments[1].tolist())

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Earlier checkpoints have no levels: they were trained on all values of 16 bits.
        super().load_state_dict({"levels": None, **state_dict})

    @override
    def prepare_data(self) -> None:
        if self.predict is None:
            check_folder(self.data_dir)

    @override
    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        found = sorted(self._samples, key=lambda sample: SPLITS.index(sample.split))
        used = sum(sample.split != "test" for sample in found)
        # Those of the test are decoded to find broken ones before the training, and not kept.
        self._samples, inputs = self._read(self.data_dir, found, used)
        classes = check_classes(self.data_dir, found, self._samples)
        for line in warnings(self._samples, [self._digests[sample.file] for sample in self._samples], classes):
            logger.warning(line)
        labels = self._labels([sample for sample in self._samples if sample.split != "test"])
        end = sum(sample.split == "train" for sample in self._samples)
        return ArrayDataset(inputs[:end], labels[:end]), ArrayDataset(inputs[end:], labels[end:])

    @override
    def load(self, split: Split) -> Batch:
        known = self._samples if hasattr(self, "train") else self._listed
        if not any(sample.split == split for sample in known):
            known = self._samples
        self._tested, inputs = self._read(self.data_dir, [sample for sample in known if sample.split == split])
        return inputs, self._labels(self._tested)

    @override
    def load_new(self) -> ArrayDataset:
        if self.predict is None:
            dataset: ArrayDataset = super().load_new()
            self._predicted = self._tested
            return dataset
        path = Path(self.predict)
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: give --data.predict a folder of images, or one image")
        root, files = path.parent, [path.name]
        if path.is_dir():
            root, (files, unused) = path, list_images(path)
            say_unused(path, unused)
        self._predicted, inputs = self._read(root, [Sample(file, "", "") for file in files])
        tell_small_range([root / file for file in files], self._learned.get("levels"))
        return ArrayDataset(inputs, torch.zeros(len(self._predicted), dtype=torch.long))

    @override
    def predicted_rows(self) -> Sequence[object]:
        return [sample.file for sample in self._predicted]

    @override
    def tested_rows(self) -> Sequence[object]:
        return [sample.file for sample in self._tested]

    @override
    def describe(self, row: int) -> dict[str, object]:
        return {"file": self._tested[row].file}

    @override
    @rank_zero_only
    def write_split(self, run: Path) -> None:
        told = all(sample.file.startswith(f"{sample.split}/") for sample in self._samples)  # by the folders themselves
        if self._samples != self._listed or self.split or not told:
            with atomic_write(run / "split.csv") as path:
                write_split(path, self._samples)

    @override
    def augment(self, inputs: Tensor) -> Tensor:
        if self.flip:
            inputs = random_flip(inputs)
        inputs = random_affine(inputs, self.degrees, self.shift, self.scale, self.crop)
        return random_colour(inputs, self.colour)

    @cached_property
    def _listed(self) -> list[Sample]:
        """All images as the folder or the split file has them; what is to be split is for training."""
        if self.split is None:
            return find_samples(self.data_dir)
        return find_split(Path(self.split), self.data_dir, trained=bool(self.fitted))

    @cached_property
    def _samples(self) -> list[Sample]:
        """All images in their splits; from `load_training` on, those that are not broken."""
        found = self._listed
        classes = [] if self.fitted else check_classes(self.data_dir, found, found)
        facts = in_parallel(inspect, [str(self.data_dir / sample.file) for sample in found], "reading")
        self._digests = {sample.file: fact.digest for sample, fact in zip(found, facts, strict=True)}
        samples, learned = found, {}
        if self.split is None:
            sizes = {"test": self.test_split, "val": self.val_split}
            samples = make_splits(found, [fact.digest for fact in facts], sizes, self.split_seed)
            if not any(sample.split == "test" for sample in found):
                learned = {"split": check_split(self.data_dir, samples, self.fitted)}
        if not self.fitted:
            pairs = zip(facts, samples, strict=True)
            sides = [fact.side for fact, sample in pairs if fact.side and sample.split == "train"]
            size = self.image_size or min(LARGEST_SIZE, int(median(sides or [LARGEST_SIZE])))
            self.fitted = {
                "classes": classes,
                "image_size": size,
                "levels": self._find_levels(facts, samples),
                **learned,
            }
        return samples

    def _find_levels(self, facts: Sequence[ImageInfo], samples: Sequence[Sample]) -> list[int] | None:
        """The range of 16-bit training images, of 1,000 of them at most; None to keep all 65,536 values."""
        pairs = [pair for pair in zip(facts, samples, strict=True) if pair[1].split == "train"]
        deep = [str(self.data_dir / sample.file) for fact, sample in pairs if fact.deep]
        tell_depths([(sample.label, fact.deep) for fact, sample in pairs if fact.side])
        chosen = random.Random(self.split_seed).sample(deep, min(len(deep), 1000))
        if levels := find_levels(chosen):
            logger.warning(
                f"16-bit images: the values of the training images, {levels[0]:,} to {levels[1]:,}, become 0 to 255"
            )
        return levels

    def _read(self, root: Path, samples: list[Sample], used: int | None = None) -> tuple[list[Sample], Any]:
        """Those that are not broken, and what the first `used` of them, by default all, hold: see `read_images`."""
        used = len(samples) if used is None else used
        channels, height, width = self.input_shape
        levels = self._learned.get("levels")
        fits = used * channels * height * width <= self.memory_gb * 1e9
        if not fits:
            self.num_workers = self.num_workers or os.cpu_count() or 1
        inputs, faults = read_images([str(root / sample.file) for sample in samples], width, used, fits, levels)
        return whole_ones(root, samples, faults, self.skip_broken), inputs

    def _labels(self, samples: list[Sample]) -> Tensor:
        return torch.tensor(labels_of(samples, self.class_names, self.data_dir))

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        self._read_training()
        with progress("measuring the training images"):
            assert isinstance(self.train, ArrayDataset)
            return channel_moments(self.train.inputs, len(self.train), self.split_seed)
