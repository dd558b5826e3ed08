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
from kindling.data.datasets import ArrayDataset
from kindling.utils.tensors import to_float

Array = NDArray[Any]

CHUNK = 512  # samples to reduce at once
THUMBNAIL = 16  # pixels of each side of an image that is compared
MAX_FEATURES = 2_000  # of samples to compare
MAX_COMPARED = 20_000  # samples that are read on demand; more would be decoded too often

logger = logging.getLogger(__name__)


def read_arrays(data: LightningDataModule) -> tuple[SampleTable, list[Finding]]:
    """Return the samples of a data module, and findings about their values."""
    parts, findings = [], list[Finding]()
    for split in SPLITS:
        if is_overridden(f"{split}_dataloader", data):
            digests, targets, features, wrong = _read_split(data, split)
            findings += wrong
            parts.append((split, digests, targets, features))
    splits = [split for split, digests, *_ in parts for _ in digests]
    names = [str(number) for _, digests, *_ in parts for number in range(len(digests))]
    inputs = np.unique(np.array([digest for _, digests, *_ in parts for digest in digests]), return_inverse=True)[1]
    targets = _join([part[2] for part in parts])
    features = _join([part[3] for part in parts])
    if features is not None and len(getattr(data, "input_shape", ())) == 1:  # of different units
        deviations = features.std(axis=0)
        features = (features - features.mean(axis=0)) / np.where(deviations > 0, deviations, 1)
    classes, targets = _comparable(data, targets)
    return SampleTable(np.array(splits, dtype=object), names, inputs, targets, classes, None, features), findings


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
    parts = []
    for rows in torch.split(torch.arange(number), CHUNK):
        part = inputs[rows]
        if part.is_complex() or part.dtype == torch.bool:
            return None
        part = to_float(part).float()
        if part.ndim == 4 and min(part.shape[2:]) > 1:
            part = part.mean(1, keepdim=True)
            part = F.adaptive_avg_pool2d(part, (min(part.shape[2], THUMBNAIL), min(part.shape[3], THUMBNAIL)))
        parts.append(part.flatten(1))
        if parts[0].shape[1] > MAX_FEATURES:
            return None
    return torch.cat(parts).nan_to_num(0, 0, 0).numpy()


def _read_split(
    data: LightningDataModule, split: str
) -> tuple[list[bytes], Array | None, Floats | None, list[Finding]]:
    """Return the digests, targets, features and findings of a split."""
    dataset = getattr(data, split) if isinstance(data, BaseDataModule) else None
    inputs: Any
    targets: Any
    if isinstance(dataset, ArrayDataset):
        inputs, targets = dataset.inputs, dataset.labels
        digests = [summarize(inputs[torch.tensor([row])]).digest for row in range(len(targets))]
    else:
        samples = samples_of_split(data, split) if dataset is None else _items(dataset)
        pairs = [
            sample if isinstance(sample, tuple | list) and len(sample) == 2 else (sample, None) for sample in samples
        ]
        digests = [summarize(inputs).digest for inputs, _ in pairs]
        inputs, targets = _stack([each for each, _ in pairs]), _stack([each for _, each in pairs])
    findings = [*_check_inputs(data, split, inputs)] if isinstance(inputs, Tensor) else []
    features, first = None, inputs
    if isinstance(dataset, ArrayDataset) and not isinstance(inputs, Tensor) and len(dataset) and are_few(len(dataset)):
        first = inputs[torch.tensor([0])]
    if isinstance(first, Tensor) and first.ndim > 1:
        features = thumbnails(inputs, len(digests))
    if isinstance(targets, Tensor):
        findings += _check_targets(data, split, targets)
    return digests, targets.cpu().numpy() if isinstance(targets, Tensor) else None, features, findings


def _items(dataset: Any) -> Iterator[Any]:
    return (dataset[row] for row in range(len(dataset)))


def _stack(values: list[Any]) -> Tensor | None:
    """Return values as one tensor; None if they are not numbers of one shape."""
    try:
        return torch.stack([torch.as_tensor(value) for value in values])
    except (TypeError, ValueError, RuntimeError):
        return None


def _join(parts: list[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known or len({part.shape[1:] for part in known}) > 1:
        return None
    return np.concatenate(known)


def _check_inputs(data: LightningDataModule, split: str, inputs: Tensor) -> Iterator[Finding]:
    """Yield findings about inputs that are not finite, or have another shape than the data module says."""
    expected, found = tuple(getattr(data, "input_shape", ()) or ()), tuple(inputs.shape[1:])
    if isinstance(data, BaseDataModule) and expected and found != expected:
        message = f"inputs of {split} have shape {found}, input_shape is {expected}"
        yield Finding("values", "error", message, [], "correct `input_shape` or `load`")
    if inputs.is_floating_point():
        wrong = (~inputs.isfinite().flatten(1).all(1)).nonzero().flatten().tolist() if inputs.ndim > 1 else []
        if wrong:
            where = [f"{row} ({split})" for row in wrong]
            message = f"{len(wrong):,} samples of {split} contain NaN or infinite numbers"
            yield Finding("values", "error", message, where, "remove the samples, or replace these values")


def _check_targets(data: LightningDataModule, split: str, targets: Tensor) -> Iterator[Finding]:
    """Yield findings about labels that are not among the classes, and numbers that are not finite."""
    classes = getattr(data, "num_classes", None)
    if targets.is_floating_point():
        wrong = (~targets.isfinite()).flatten(1 if targets.ndim > 1 else 0)
        wrong = wrong.any(1) if targets.ndim > 1 else wrong
        reason = "that are NaN or infinite"
    elif classes is not None and targets.ndim == 1:
        wrong = (targets < 0) | (targets >= classes)
        reason = f"outside of 0 to {classes - 1}"
    else:
        return
    if rows := wrong.nonzero().flatten().tolist():
        where = [f"{row} ({split})" for row in rows]
        yield Finding("values", "error", f"{len(rows):,} targets of {split} {reason}", where, "correct them in `load`")
