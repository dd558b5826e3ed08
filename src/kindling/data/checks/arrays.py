"""Samples of any data module, and checks of their values."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kindling.data.array_types import Floats
from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable, samples_of_split, summarize
from kindling.data.datamodule import SPLITS, BaseDataModule
from kindling.data.datasets import ArrayDataset, batches_of
from kindling.utils.tensors import to_float

Array = NDArray[Any]

THUMBNAIL = 16  # pixels of each side of an image that is compared
MAX_FEATURES = 2_000  # of samples to compare
MAX_COMPARED = 20_000  # samples that are read on demand; more would be decoded too often

logger = logging.getLogger(__name__)


def read_arrays(data: LightningDataModule) -> tuple[SampleTable, list[Finding]]:
    """Return the samples of a data module, and findings about their values."""
    splits, names, digests = list[str](), list[str](), list[bytes]()
    all_targets, all_features = list[Array | None](), list[Array | None]()
    findings = list[Finding]()
    for split in SPLITS:
        if is_overridden(f"{split}_dataloader", data):
            found, inputs, targets = _read_split(data, split)
            digests += found
            splits += [split] * len(found)
            names += map(str, range(len(found)))
            all_targets.append(targets.cpu().numpy() if isinstance(targets, Tensor) else None)
            all_features.append(None if inputs is None else thumbnails(inputs, len(found)))
            findings += _check_values(data, split, inputs, targets)
    equal = np.unique(np.array(digests), return_inverse=True)[1]
    features = join(all_features)
    if features is not None and len(getattr(data, "input_shape", ())) == 1:  # of different units
        deviations = features.std(axis=0)
        features = (features - features.mean(axis=0)) / np.where(deviations > 0, deviations, 1)
    classes, known = _comparable(data, join(all_targets))
    return SampleTable(np.array(splits, dtype=object), names, equal, known, classes, None, features), findings


def _comparable(data: LightningDataModule, targets: Array | None) -> tuple[tuple[str, ...], Array | None]:
    """Return the class names and the targets as in `SampleTable`, None if they are neither classes nor numbers."""
    classes = tuple(map(str, getattr(data, "class_names", ())))
    if targets is None:
        return classes, None
    is_integer = targets.dtype.kind in "iu"
    if getattr(data, "task", None) == "multilabel" and targets.ndim == 2:
        classes = classes or tuple(map(str, range(targets.shape[1])))
        fits = targets.shape[1] == len(classes) and bool(np.isin(targets, (0, 1)).all())
        return classes, targets if fits else None
    if targets.ndim != 1:
        return classes, None
    if not classes and is_integer and targets.min() >= 0:
        classes = tuple(map(str, range(int(targets.max()) + 1)))
    fits = is_integer and 0 <= targets.min() <= targets.max() < len(classes)
    return classes, targets if (fits if classes else targets.dtype.kind == "f") else None


def are_few(number: int) -> bool:
    """Return whether a number of samples that are read on demand are compared; if not, it is said."""
    if number > MAX_COMPARED:
        logger.warning(
            f"not checked: near-copies and labels that look wrong, as more than {MAX_COMPARED:,} are read on demand"
        )
    return number <= MAX_COMPARED


def thumbnails(inputs: Any, number: int) -> Floats | None:
    """Return images as small gray ones, and other inputs as they are, (N, F); None if they are not comparable."""
    if not isinstance(inputs, Tensor) and not (number and are_few(number)):
        return None
    parts = []
    for part in batches_of(inputs, torch.arange(number)):
        if not isinstance(part, Tensor) or part.ndim < 2 or part.is_complex() or part.dtype == torch.bool:
            return None
        part = to_float(part).float()
        if part.ndim == 4 and min(part.shape[2:]) > 1:
            part = part.mean(1, keepdim=True)
            part = F.adaptive_avg_pool2d(part, (min(part.shape[2], THUMBNAIL), min(part.shape[3], THUMBNAIL)))
        parts.append(part.flatten(1))
        if parts[0].shape[1] > MAX_FEATURES:
            return None
    return torch.cat(parts).nan_to_num(0, 0, 0).numpy()


def _read_split(data: LightningDataModule, split: str) -> tuple[list[bytes], Any, Tensor | None]:
    """Return a digest of the input of each sample of a split; its inputs and its targets, None if they differ in shape.

    Inputs that are read on demand stay so.
    """
    dataset = getattr(data, split) if isinstance(data, BaseDataModule) else None
    if isinstance(dataset, ArrayDataset):
        digests = [summarize(dataset.inputs[torch.tensor([row])]).digest for row in range(len(dataset))]
        return digests, dataset.inputs, dataset.labels
    samples = samples_of_split(data, split) if dataset is None else (dataset[row] for row in range(len(dataset)))
    pairs = [sample if isinstance(sample, tuple | list) and len(sample) == 2 else (sample, None) for sample in samples]
    digests = [summarize(inputs).digest for inputs, _ in pairs]
    return digests, _stack([inputs for inputs, _ in pairs]), _stack([target for _, target in pairs])


def _stack(values: list[Any]) -> Tensor | None:
    """Return values as one tensor; None if they are not numbers of one shape."""
    try:
        return torch.stack([torch.as_tensor(value) for value in values])
    except (TypeError, ValueError, RuntimeError):
        return None


def join(parts: list[Array | None]) -> Array | None:
    """Return arrays as one; None if one is missing, or they differ in shape."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known or len({part.shape[1:] for part in known}) > 1:
        return None
    return np.concatenate(known)


def _check_values(data: LightningDataModule, split: str, inputs: Any, targets: Tensor | None) -> Iterator[Finding]:
    """Yield findings about inputs of a wrong shape, numbers that are not finite, and labels that are not classes."""
    expected, classes = tuple(getattr(data, "input_shape", ()) or ()), getattr(data, "num_classes", None)
    wrong: list[tuple[Tensor, str, str]] = []  # whether each sample is wrong, what is, and what to do
    if isinstance(inputs, Tensor):
        shape = tuple(inputs.shape[1:])
        if isinstance(data, BaseDataModule) and expected and shape != expected:
            message = f"inputs of {split} have shape {shape}, input_shape is {expected}"
            yield Finding("values", "error", message, [], "correct `input_shape` or `load`")
        what = f"samples of {split} contain NaN or infinite numbers"
        wrong.append((_is_not_finite(inputs), what, "remove the samples, or replace these values"))
    if targets is not None:
        what = f"targets of {split} that are NaN or infinite"
        wrong.append((_is_not_finite(targets), what, "correct them in `load`"))
        if classes is not None and targets.ndim == 1 and not targets.is_floating_point():
            what = f"targets of {split} outside of 0 to {classes - 1}"
            wrong.append(((targets < 0) | (targets >= classes), what, "correct them in `load`"))
    for which, what, fix in wrong:
        if rows := which.nonzero().flatten().tolist():
            yield Finding("values", "error", f"{len(rows):,} {what}", [f"{row} ({split})" for row in rows], fix)


def _is_not_finite(values: Tensor) -> Tensor:
    """Return which samples (N, ...) contain NaN or infinite numbers, (N,)."""
    return ~values.unsqueeze(1).flatten(1).isfinite().all(1)
