"""The labeled images of a folder: those of a `split.csv`, of a label file or of class folders."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from kindling.data.datamodule import SPLITS
from kindling.data.fitted_state import MEMBERS
from kindling.data.images.folder import check_folder, find_samples
from kindling.data.images.groups import groups_in_paths
from kindling.data.images.image_info import inspect
from kindling.data.images.labels import LabeledImages, LabelOptions, read_labels
from kindling.data.images.samples import Sample
from kindling.data.images.scan import list_images
from kindling.data.images.split_file import read_image_split
from kindling.data.images.targets import SEPARATOR
from kindling.data.images.trained import are_unknown, rename, warn_same_names
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)


def find_labeled(
    root: Path, labels: Path | None, split: Path | None, options: LabelOptions, fitted: Mapping[str, Any]
) -> LabeledImages:
    """List the images of a folder with their labels.

    Args:
        root: The folder.
        labels: Label file; None for class folders.
        split: A `split.csv` with labels and splits; it comes before `labels`, which a trained model compares with it.
        options: How to read the label file.
        fitted: The fitted state of the data module; empty before training. A trained model may be evaluated on a
            folder other than that of `split`.

    Raises:
        ValueError: If there are no labels for the task of a trained model, or a file can't be used.
    """
    check_folder(root)
    is_other = False
    if split is not None:
        task, samples = read_image_split(split, () if MEMBERS in fitted else SPLITS)
        is_other = _is_other(root, samples, labels, split, options, fitted)
        if not is_other:
            if fitted and not labels and split.with_name("run.json").exists():
                _report_new(root, samples, split)
            given = LabeledImages(samples, task)
            return given if fitted else _constrain(given, split, labels, root, options)
    if labels is None and fitted.get("task", "classification") != "classification":
        raise ValueError(f"the model needs a label file for the images in {root}: add --data.labels FILE")
    if labels:
        labeled = read_labels(labels, root, options, fitted, options.constrained and not is_other)
    else:
        labeled = LabeledImages(find_samples(root))
        labeled = labeled if is_other else _constrain(labeled, None, None, root, options)
    return replace(labeled, is_other=is_other)


def _is_other(
    root: Path,
    samples: Sequence[Sample],
    labels: Path | None,
    split: Path,
    options: LabelOptions,
    fitted: Mapping[str, Any],
) -> bool:
    """Return whether a folder is not the one whose images a `split.csv` lists.

    Raises:
        ValueError: If it is, but images are missing or have other labels in the label file.
    """
    missing = [sample.file for sample in samples if not (root / sample.file).exists()]
    training = (inspect(str(root / sample.file)).digest for sample in samples if sample.split == "train")
    is_unknown = are_unknown(fitted, training)  # reads one file if it is not
    if missing:
        if fitted and len(missing) == len(samples):
            return True
        way_out = f"; if its images are others than those of training, {rename(root, labels)}" * is_unknown
        raise ValueError(f"{split} lists files that are not in {root}: {join_names(missing, 3)}{way_out}")
    difference = _compare(samples, labels, split, root, options, fitted, is_unknown) if fitted and labels else ""
    if difference and is_unknown:
        return True
    if difference:
        raise ValueError(
            f"{labels} has other labels than {split} for {difference}: set --data.split to a copy of {split} "
            f"with the right labels, or ignore {labels} with --data.labels null"
        )
    if is_unknown and split.with_name("run.json").exists():  # else it is a file of the user's own
        warn_same_names(root, f"those in {split}", labels)
    return False


def _report_new(root: Path, samples: Sequence[Sample], split: Path) -> None:
    """Warn about images added since a run was started, which no command uses as its `split.csv` does not list them."""
    known = {os.path.normpath(sample.file) for sample in samples}
    try:
        run = json.loads(split.with_name("run.json").read_text("utf-8"))
        started = datetime.fromisoformat(run["started"]).timestamp()
    except (OSError, ValueError, KeyError):  # damaged
        return
    others = [file for file in list_images(root).images if "/" in file and os.path.normpath(file) not in known]
    if new := [file for file in others if _changed_at(root / file) > started]:
        logger.warning(
            f"not used: {count_noun(len(new), 'image', 'images')} of {root} that {split} does not list, added or "
            f"changed after the run was started ({join_names(new, 2)}); a new run uses them"
        )


def _changed_at(path: Path) -> float:
    """Return when a file was written, or copied to its place."""
    return max(path.stat().st_mtime, path.stat().st_ctime)


def _compare(
    samples: Sequence[Sample],
    labels: Path,
    split: Path,
    root: Path,
    options: LabelOptions,
    fitted: Mapping[str, Any],
    is_unknown: bool,
) -> str:
    """Return how many images have other labels in a file, with an example; empty if none has.

    Raises:
        ValueError: If the file can't be read, and the images may be others than those of training.
    """
    learned_labels = fitted.get("target") or "separator" in fitted or fitted.get("task") == "classification"
    if (options.constrained and not learned_labels) or not labels.is_file():
        return ""  # `fit` took only groups or times from the file; or it is gone: `split` has the labels too
    try:
        listed = read_labels(labels, root, replace(options, skip_missing=True), fitted).samples
    except ValueError as error:
        if is_unknown:
            raise
        logger.warning(f"the labels of {split} are used, as {labels} can't be read: {error}")
        return ""
    label_of = {sample.file: sample.label for sample in listed}
    pairs = [(sample.file, label_of.get(sample.file, sample.label), sample.label) for sample in samples]
    differing = [pair for pair in pairs if {*pair[1].split(SEPARATOR)} != {*pair[2].split(SEPARATOR)}]
    if not differing:
        return ""
    file, now, then = differing[0]
    return f"{count_noun(len(differing), 'image', 'images')}, such as {file} ({now}, was {then})"


def _constrain(
    given: LabeledImages, split: Path | None, labels: Path | None, root: Path, options: LabelOptions
) -> LabeledImages:
    """Add the groups and times of images in class folders or a `split.csv`, if there are any.

    Raises:
        ValueError: If an image has no group or time.
    """
    if labels and not options.constrained:
        logger.warning(f"{labels} is not read: {split} has the labels and the splits")
    if not options.constrained:
        return given
    if labels is None:
        if options.time is not None:
            raise ValueError(f"--data.time {options.time} needs a label file with this column: add --data.labels")
        assert options.groups is not None
        return replace(given, constraints=groups_in_paths(given.samples, options.groups))
    labeled = read_labels(labels, root, options, {}, constrained=True)
    index = {sample.file: number for number, sample in enumerate(labeled.samples)}
    if absent := [sample.file for sample in given.samples if sample.file not in index]:
        raise ValueError(f"{labels} has no rows for images that {split} lists: {join_names(absent, 3)}")
    rows = np.array([index[sample.file] for sample in given.samples])
    return replace(given, constraints=labeled.constraints.select(rows))
