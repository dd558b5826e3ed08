"""Data module for a folder of images with one subfolder per class, or with a label file."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from kindling.data.classification import LearnedTargets
from kindling.data.datamodule import ArrayDataset, Batch, Split
from kindling.data.disk_cache import DiskCache
from kindling.data.fitted_state import MEMBERS, FittedState
from kindling.data.folds import check_fold
from kindling.data.images.augmented import AugmentedImages
from kindling.data.images.bit_depth import warn_small_range
from kindling.data.images.decode import ImageFiles, channel_moments, read_images
from kindling.data.images.folder import check_folder
from kindling.data.images.folder_checks import drop_broken, report_broken, warn_oddities
from kindling.data.images.image_splits import SplitImages
from kindling.data.images.labels import LabelOptions, LabelTask
from kindling.data.images.pixel_cache import open_pixel_cache
from kindling.data.images.samples import Sample
from kindling.data.images.scan import find_images
from kindling.data.images.split_file import write_image_split
from kindling.data.images.targets import encode_labels, target_format
from kindling.data.images.trained import TRAINED, digest_trained, merge_trained
from kindling.data.tables.target import check_target_task
from kindling.data.tables.values import missing_texts
from kindling.utils.console import progress
from kindling.utils.hyperparameters import check_range
from kindling.utils.text import join_names


class ImageFolderDataModule(LearnedTargets, AugmentedImages):
    """Labeled images, decoded to RGB and resized to one size.

    They are laid out as `<class>/*.jpg` or `{train,val,test}/<class>/*.jpg`; or `labels` is a file with a row for each
    image: its name, and its class, its number or its classes. Several classes are separated in one column, such as
    `cat|dog`, or have a column of 0 and 1 each. A column `split` with train, val and test defines the splits.

    Reads JPEG, PNG, WebP, BMP and GIF (its first frame), recognized by suffix or content. If 16-bit images use less
    than half of their values, the range of the training images is scaled to 8 bits. Missing splits are created:
    stratified, with duplicates of an image kept together, and saved in the run folder as `split.csv`. Training and
    validation images are decoded once and cached, in memory if they fit, else on disk.

    Args:
        data_dir: The folder; with `labels`, images are found at any depth.
        labels: Label file, CSV or Parquet; images are named relative to the folder, with or without their suffix.
        target: Name of the column with the labels, or of several with 0 and 1 for each class: '["cat", "dog"]'. By
            default all but those with the names of the images and the splits.
        task: Whether labels are classes (classification), numbers (regression) or several classes per image
            (multilabel); auto decides by their values.
        missing: Text in a label that means a missing value, such as NA, or several: ["NA", "?"]. Images without a label
            are left out.
        decimal: Decimal sign of ambiguous numbers, such as 1,234.
        image_size: Height and width in pixels; images are resized and center-cropped. By default the median of the
            shorter sides of the training images, of all images with `fold`; at most 224.
        split: A `split.csv` with the columns file, class (or number, or classes) and split, which defines labels and
            splits. `fit` saves one in the run folder.
        test_split: Images to hold out for testing if the folder has no test split: a number, or a fraction as a float.
        groups: Group column in the label file, such as a patient: all images of a group are put into one split.
            Without such a file, `folder` for groups in folders, `<class>/<group>/*.jpg`; or a regular expression with
            the group in parentheses, which is searched for in the path below the class folder.
        time: Column of dates or numbers in the label file: the newest images are for testing, the newest of the
            others for validation.
        fold: For cross-validation, the fold to test on and the number of folds, such as 1/5; it replaces `test_split`.
        predict: A folder of images, or one image, to predict; by default the test split.
        skip_broken: Whether to skip images that are broken or too large. Otherwise they are an error, which does not
            stop the prediction of the others.
        memory_gb: Memory in GB for the training and validation images, and as much again for the test images.
        cache_dir: Folder for decoded training and validation images that don't fit in memory, so that each is decoded
            once; by default the user's cache folder.
        cache_gb: Most space for them in GB; 0 turns this off.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Worker processes that load batches; by default its share of the cores if images don't fit in
            memory, else none.
        **options: Augmentation, batches and validation split, see `AugmentedImages`. The validation split has at least
            one image of each class.

    Raises:
        ValueError: If an argument is out of range.
    """

    row_header = "file"

    def __init__(
        self,
        data_dir: str | Path,
        labels: str | Path | None = None,
        target: tuple[str, ...] | str = (),
        task: LabelTask = "auto",
        missing: tuple[str | float, ...] | str = (),
        decimal: Literal[".", ","] | None = None,
        image_size: int | None = None,
        split: str | Path | None = None,
        test_split: int | float = 0.2,
        groups: str | None = None,
        time: str | None = None,
        fold: str | None = None,
        predict: str | Path | None = None,
        skip_broken: bool = False,
        memory_gb: float = 4.0,
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
        eval_batch_size: int = 128,
        num_workers: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers or 0, **options)
        self._chooses_workers = num_workers is None
        if image_size is not None:
            check_range("image_size", image_size, 1)
        self.data_dir = Path(data_dir)
        self.labels = None if labels is None else Path(labels)
        targets = (target,) if isinstance(target, str) else tuple(target)
        self._label_options = LabelOptions(targets, task, missing_texts(missing), decimal, groups=groups, time=time)
        if fold is not None:
            check_fold(fold, "images", split=split)
        if labels is None and split is None and task not in ("auto", "classification"):
            raise ValueError(f"--data.task {task} needs a label file: add --data.labels FILE")
        check_range("cache_gb", cache_gb, 0)
        self.image_size, self.split, self.test_split = image_size, split, test_split
        self.groups, self.time, self.fold = groups, time, fold
        self.predict, self.skip_broken = predict, skip_broken
        self.memory_gb, self.cache_dir, self.cache_gb = memory_gb, cache_dir, cache_gb
        self._restored: FittedState = {}  # of the checkpoint from which training resumes

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Channels, height and width of an image as the model receives it."""
        size = self.image_size or self.fitted_state["image_size"]
        return 3, size, size

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # If training resumes, images may have been added.
        trained = merge_trained([self.fitted, state_dict])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != TRAINED})
        self.fitted |= trained
        if not state_dict:
            return
        check_target_task(self._label_options.task, self.task)
        if hasattr(self, "train"):  # `fit` reads the images before the checkpoint
            for split in ("val", "test"):
                self._images.check_unseen(self._in_split(split), self.fitted)

    @override
    def restore_fitted(self, state: FittedState) -> None:
        if "task" in state:  # `split.csv` has the labels, but not the fitted state of their file
            self.load_state_dict(state)
        elif self.skip_broken:  # `split.csv` lists no broken images, but they had a part in these
            names = ("levels",) if self.image_size else ("image_size", "levels")
            self._restored = {name: state[name] for name in names if name in state}

    @override
    def combine_fitted(self, states: Sequence[FittedState]) -> None:
        ranges = [f"{low:,} to {high:,}" for low, high in (state.get("levels") or (0, 65535) for state in states)]
        if len({*ranges}) > 1:
            raise ValueError(
                f"the members of the ensemble were trained with different ranges of 16-bit images: {join_names(ranges)}"
            )
        # Each member returns numbers in their own units, whatever their scale in its training images.
        others = [{name: value for name, value in state.items() if name != TRAINED} for state in states]
        super().combine_fitted([state | target_format(state) for state in others])
        self.fitted |= merge_trained(states)
        if "target" in states[0]:
            self.fitted["target"] = states[0]["target"]

    @override
    def prepare_data(self) -> None:
        if self.predict is None:
            check_folder(self.data_dir)

    @override
    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        held_out = self._in_split("val")
        if not held_out and MEMBERS not in self.fitted:
            raise ValueError(
                f"{self.data_dir} has no validation images: add a folder val/, or use kindling test, which takes all "
                "images of a folder without splits"
            )
        self._images.check_unseen(held_out, self.fitted)
        kept = [*self._in_split("train"), *held_out]
        # Test images are decoded too, to find broken ones before training, but not kept in memory.
        found = [*kept, *self._in_split("test")]
        inputs, faults = self._read(self.data_dir, found, len(kept))
        self._samples = drop_broken(self.data_dir, found, faults, self.skip_broken)
        classes = self._images.check_classes(self._samples)
        digests = [self._images.digests[sample.file] for sample in self._samples]
        if self.trainer is None or self.trainer.state.fn == "fit":  # images may have been added since the checkpoint
            self.fitted |= merge_trained([self.fitted, digest_trained(self._samples, digests)])
        warn_oddities(self._samples, digests, classes, self.task)
        train, val = (self._encode(self._in_split(split)) for split in ("train", "val"))
        return ArrayDataset(inputs[: len(train)], train), ArrayDataset(inputs[len(train) :], val)

    @override
    def load(self, split: Split) -> Batch:
        given = [sample for sample in self._images.listed if sample.split == split]
        # Splits that are given need not be drawn, for which all files are read.
        chosen = self._in_split(split) if hasattr(self, "train") else given
        if not chosen and MEMBERS in self.fitted:
            raise ValueError(
                f"{self.split or self.data_dir} has no {split} images: the members of the ensemble were trained on "
                "all; add --data.data_dir FOLDER to test on unseen images, or --data.predict FOLDER to predict"
            )
        chosen = chosen or self._in_split(split)
        if not chosen:
            raise ValueError(f"{self.data_dir} has no {split} images: add a folder {split}/")
        if split == "test":
            self._images.check_unseen(chosen, self.fitted)
        inputs, faults = self._read(self.data_dir, chosen)
        self._tested = drop_broken(self.data_dir, chosen, faults, self.skip_broken)
        self._warn_small_range(self.data_dir, self._tested)
        return inputs, self._encode(self._tested)

    @override
    def load_predict(self) -> ArrayDataset:
        if self.predict is None:
            dataset: ArrayDataset = super().load_predict()
            self._predicted = self._tested
            return dataset
        root, files = find_images(Path(self.predict))
        self._predicted = [Sample(file, "", "") for file in files]
        inputs, faults = self._read(root, self._predicted)
        if self.skip_broken:
            self._predicted = drop_broken(root, self._predicted, faults, skip=True)
        elif report_broken(root, self._predicted, faults):
            self.unreadable = [number for number, fault in enumerate(faults) if fault]
        self._warn_small_range(root, self._predicted)
        return ArrayDataset(inputs, torch.zeros(len(self._predicted) - len(self.unreadable), dtype=torch.long))

    @override
    def predicted_rows(self) -> Sequence[object]:
        return [sample.file for sample in self._predicted]

    @property
    @override
    def draws_folds(self) -> bool:
        is_given = any(sample.split != "train" for sample in self._images.listed)
        return not (is_given or self.split or self.time or self.fold)

    @override
    def tested_rows(self) -> Sequence[object]:
        return [sample.file for sample in self._tested]

    @override
    def sample_details(self, row: int) -> dict[str, object]:
        return {"file": self._tested[row].file}

    @override
    @rank_zero_only
    def write_split(self, run: Path) -> None:
        in_split_folders = all(sample.file.startswith(f"{sample.split}/") for sample in self._samples)
        if self._samples != self._images.listed or self.split or self.labels or not in_split_folders:
            write_image_split(run / "split.csv", self.task, self._samples)

    @cached_property
    def _images(self) -> SplitImages:
        split = None if self.split is None else Path(self.split)
        options = replace(self._label_options, skip_missing=self.skip_broken)
        return SplitImages(self.data_dir, self.labels, split, options, self.fitted, self.cores)

    @cached_property
    def _samples(self) -> list[Sample]:
        """All images in their final splits; after `load_training`, without broken ones."""
        sizes = {"test": self.test_split, "val": self.val_split}
        samples, fitted = self._images.draw(sizes, self.split_seed, self.fold, self.image_size)
        self.fitted = self.fitted or fitted | self._restored
        return samples

    def _in_split(self, split: str) -> list[Sample]:
        return [sample for sample in self._samples if sample.split == split]

    def _read(self, root: Path, samples: Sequence[Sample], cached: int | None = None) -> tuple[Any, list[str]]:
        """Return the readable images, and an error message per image, empty if it is readable (see `read_images`).

        With `cached`, return only the first `cached` images; if they don't fit in memory, cache them on disk.
        """
        needed, shape, levels = cached or len(samples), self.input_shape, self.fitted_state.get("levels")
        fits = needed * prod(shape) <= self.memory_gb * 1e9
        cache = None
        if cached and not fits:
            digest = blake2b(b"".join(self._images.digests[sample.file] for sample in samples[:cached]), digest_size=16)
            disk = DiskCache(self.cache_dir, self.cache_gb * 1e9)
            cache = open_pixel_cache(disk, digest.hexdigest(), "train", cached, shape, levels)
        paths = [str(root / sample.file) for sample in samples]
        files = ImageFiles(paths, shape[-1], levels, cache, threads=self.cores)
        # Processes of a machine begin at different images, as they share what they decode.
        start = needed * self.trainer.local_rank // self.trainer.num_devices if cache and self.trainer else 0
        if not fits and self._chooses_workers:
            self.num_workers = self.cores
        return read_images(files, needed, fits, start)

    def _warn_small_range(self, root: Path, samples: Sequence[Sample]) -> None:
        paths = [root / sample.file for sample in samples]
        warn_small_range(paths, self.fitted_state.get("levels"), threads=self.cores)

    def _encode(self, samples: list[Sample]) -> Tensor:
        classes = () if self.task == "regression" else self.class_names
        return encode_labels(samples, self.task, classes, self.data_dir)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:  # of 1,000 images if they don't fit in memory
        self._read_training()
        with progress("computing the mean of the training images"):
            return channel_moments(self.train.inputs, self.split_seed)
