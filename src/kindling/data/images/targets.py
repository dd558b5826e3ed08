"""The labels of images for each task: as text in `split.csv`, and as targets of a model."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kindling.data.images.samples import ImageTask, Sample
from kindling.data.tables.number_target import TARGET_FORMAT, number_strata
from kindling.utils.text import join_names

SEPARATOR = "|"  # between the classes of an image in `split.csv`
COMMON = 20  # images with the same classes, from which on they are stratified as one


def classes_in(label: str, task: ImageTask) -> list[str]:
    """Return the classes that a label names; none for numbers."""
    if task == "multilabel":
        return label.split(SEPARATOR) if label else []
    return [label] if task == "classification" else []


def target_format(fitted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the target of numbers in a fitted state, without their scale; empty if it has none."""
    target = fitted.get("target")
    return {"target": {name: target.get(name) for name in TARGET_FORMAT}} if target else {}


def encode_labels(samples: Sequence[Sample], task: ImageTask, classes: Sequence[str], source: Path) -> Tensor:
    """Return the targets of a model.

    Args:
        samples: The images.
        task: The task.
        classes: The classes that the model knows.
        source: Folder or file that the labels come from, for messages.

    Returns:
        Class indices (N,), int64; numbers (N,), float32; or 1 for the classes of an image and 0 for the others,
        (N, classes), float32.

    Raises:
        ValueError: If there is another class.
    """
    if task == "regression":
        return torch.tensor([float(sample.label) for sample in samples], dtype=torch.float32)
    number = {name: label for label, name in enumerate(classes)}
    named = [classes_in(sample.label, task) for sample in samples]
    if unknown := sorted({name for names in named for name in names} - number.keys()):
        raise ValueError(
            f"{source} has unknown classes ({join_names(unknown, 3)}); the model knows {join_names(classes)}"
        )
    if task == "classification":
        return torch.tensor([number[name] for names in named for name in names], dtype=torch.int64)
    targets = torch.zeros(len(samples), len(classes))
    for row, names in zip(targets, named, strict=True):
        row[[number[name] for name in names]] = 1
    return targets


def strata_of(labels: Sequence[str], task: ImageTask) -> list[Hashable]:
    """Return the stratum of each label: labels of one stratum are distributed evenly over the splits.

    It is the class; or the quantile of the number; or, of several classes, their combination if it is frequent, else
    the rarest of them, as in iterative stratification (K. Sechidis et al., ECML 2011).
    """
    if task == "classification":
        return [*labels]
    if task == "regression":
        return [*number_strata(np.array(labels, dtype=np.float32)).tolist()]
    images = Counter(name for label in labels for name in classes_in(label, task))
    combinations = Counter(labels)

    def stratum(label: str) -> str:
        names = classes_in(label, task)
        return (
            label if combinations[label] >= COMMON or not names else min(names, key=lambda name: (images[name], name))
        )

    return [*map(stratum, labels)]
