"""Checks that the splits of a data module are sound."""

import copy
from collections import Counter
from typing import Any

from lightning.pytorch import LightningDataModule, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import Dataset, Subset

from kindling.data import BaseDataModule
from kindling.data.checks.samples import Sample, samples_of_split, summarize
from kindling.data.datamodule import ArrayDataset
from kindling.data.datasets import targets_of
from kindling.testing.isolation import isolated


@isolated()
def check_data(data: LightningDataModule, *, shared: float = 0.01, stratified: bool | None = None) -> None:
    """Check that the splits of a data module are sound.

    No sample of one split occurs in another; the same seed gives the same splits and batches; shapes and types are the
    same in all splits; if targets are classes, one or several per sample, their numbers and names match, and every
    class is in the training split; and if they are numbers, they are finite.

    Args:
        data: The data module; all of its splits are read.
        shared: Fraction of a split whose samples may also occur, with equal values and targets, in another split: rows
            of a table can be equal by chance.
        stratified: Whether each class must have the same share in validation as in training, apart from chance. By
            default it must, unless the two splits come from separate datasets.

    Raises:
        AssertionError: If a check fails.
    """
    name, untouched = type(data).__name__, copy_data(data)
    splits, again = _read_splits(data, seed=0), _read_splits(untouched, seed=1)
    for split, samples in splits.items():
        assert samples, f"{name}: the {split} split is empty"
        same = [sample.digest for sample in samples] == [sample.digest for sample in again[split]]
        assert same, f"{name}: the {split} split differs when it is read again"
    counts = {split: Counter(sample.digest for sample in samples) for split, samples in splits.items()}
    for split, other in [("val", "train"), ("test", "train"), ("test", "val")]:
        if split in counts and other in counts:
            common, size = (counts[split] & counts[other]).total(), counts[split].total()
            assert common <= shared * size, f"{name}: {common} of {size} samples of {split} are in {other}, too"
    _check_shapes(data, splits)
    if isinstance(data, BaseDataModule):
        _check_targets(data, stratified)


def copy_data(data: LightningDataModule) -> LightningDataModule:
    """Return a copy of a data module, which has read as much as the original, without its trainer."""
    alone = copy.copy(data)
    alone.trainer = None
    return copy.deepcopy(alone)


def _read_splits(data: LightningDataModule, seed: int) -> dict[str, list[Sample]]:
    """Return the samples of each split, those of training last and sorted.

    Only the augmentation of training samples may depend on the random state of the training, which is the same in each
    call; everything else is read with `seed`.
    """
    seed_everything(seed, verbose=False)
    data.prepare_data()
    data.setup("fit")
    if is_overridden("test_dataloader", data):
        data.setup("test")
    splits = {}
    for split in ("val", "test", "train"):
        if is_overridden(f"{split}_dataloader", data):
            if split == "train":
                seed_everything(0, verbose=False)
            splits[split] = [*map(summarize, samples_of_split(data, split))]
    splits.get("train", []).sort()
    return splits


def _check_shapes(data: LightningDataModule, splits: dict[str, list[Sample]]) -> None:
    """Check that all splits have the same types and shapes; if shapes vary within a split, the number of dimensions."""
    name = type(data).__name__
    layouts: dict[str, set[Any]] = {split: {sample.layout for sample in splits[split]} for split in reversed(splits)}
    if isinstance(data, BaseDataModule) and hasattr(data, "input_shape"):
        expected = tuple(data.input_shape)
        for split, found in layouts.items():
            for shape in {layout[0][1] for layout in found} - {expected}:
                raise AssertionError(f"{name}: inputs of {split} have shape {shape}, input_shape is {expected}")
    if any(len(found) > 1 for found in layouts.values()):
        layouts = {
            split: {(kind, len(shape)) for layout in found for kind, shape in layout}
            for split, found in layouts.items()
        }
    for split, found in layouts.items():
        train = layouts.get("train", found)
        assert found == train, f"{name}: samples of {split} are {found}, those of train {train}"


def _check_targets(data: BaseDataModule, stratified: bool | None) -> None:
    """Check the targets of a data module that says what they are."""
    task = getattr(data, "task", None)
    if task == "regression":
        _check_numbers(data)
    if task == "multilabel":
        _check_several_classes(data)
    if task == "classification":
        by_class = _check_classes(data)
        if by_class and (stratified or (stratified is None and _may_share_source(data.train, data.val))):
            _check_stratified(data, by_class["train"], by_class["val"])


def _check_classes(data: Any) -> dict[str, Tensor]:
    """Check class names and labels; return the number of samples of each class by split, empty if unknown."""
    name, names = type(data).__name__, _check_names(data)
    counts = {}
    for split in ("train", "val", "test"):
        labels = targets_of(getattr(data, split))
        if labels is None:
            return {}
        assert not labels.is_floating_point(), f"{name}: labels of {split} are {labels.dtype}, not integers"
        low, high = int(labels.min()), int(labels.max())
        assert 0 <= low <= high < data.num_classes, (
            f"{name}: labels of {split} must be from 0 to {data.num_classes - 1}, got {low} to {high}"
        )
        counts[split] = labels.flatten().bincount(minlength=data.num_classes)
    missing = [names[label] for label in (counts["train"] == 0).nonzero().flatten().tolist()]
    assert not missing, f"{name}: no training sample of class {', '.join(map(str, missing))}"
    return counts


def _check_names(data: Any) -> tuple[str, ...]:
    """Check the names of the classes and return them."""
    name, names = type(data).__name__, tuple(data.class_names)
    assert len(names) == data.num_classes, f"{name}: {len(names)} class_names for {data.num_classes} classes"
    assert len(set(names)) == len(names), f"{name}: two classes have the same name: {names}"
    return names


def _check_several_classes(data: Any) -> None:
    """Check that the targets of all splits are 0 or 1 for each class, and each class is in the training split."""
    names = _check_names(data)
    for split in ("train", "val", "test"):
        targets = targets_of(getattr(data, split))
        if targets is None:
            return
        label, shape = f"{type(data).__name__}: targets of {split}", tuple(targets.shape)
        assert shape[1:] == (len(names),), f"{label} have shape {shape}, expected (N, {len(names)})"
        assert ((targets == 0) | (targets == 1)).all(), f"{label} are not all 0 or 1"
        missing = [name for name, has in zip(names, targets.bool().any(0).tolist(), strict=True) if not has]
        assert split != "train" or not missing, f"{label}: no sample of class {', '.join(missing)}"


def _check_numbers(data: Any) -> None:
    """Check that the targets of all splits are finite numbers."""
    for split in ("train", "val", "test"):
        targets = targets_of(getattr(data, split))
        if targets is None:
            return
        name = f"{type(data).__name__}: targets of {split}"
        assert targets.is_floating_point(), f"{name} are {targets.dtype}, not floats"
        assert targets.isfinite().all(), f"{name} contain NaN or infinite numbers"


def _may_share_source(train: Dataset[Any], val: Dataset[Any]) -> bool:
    """Return whether two splits are parts of one dataset; splits in memory may be."""
    if isinstance(train, Subset) and isinstance(val, Subset):
        return train.dataset is val.dataset or _may_share_source(train.dataset, val.dataset)
    return isinstance(train, ArrayDataset) and isinstance(val, ArrayDataset)


def _check_stratified(data: Any, train: Tensor, val: Tensor) -> None:
    """Check that the number of validation samples of each class (classes,) is as expected, apart from chance."""
    labels = targets_of(data.val)
    if labels is None or labels.ndim != 1:  # several labels of one sample are not independent
        return
    share = (train + val) / (train + val).sum()
    expected = share * val.sum()
    tolerance = 4 * (expected * (1 - share)).sqrt() + 1  # four standard deviations of a binomial distribution
    wrong = ((val - expected).abs() > tolerance) | ((val == 0) & (expected >= 3))
    found = [
        f"{val[label]} of class {data.class_names[label]}, expected {expected[label]:.0f}"
        for label in wrong.nonzero().flatten().tolist()
    ]
    assert not found, f"{type(data).__name__}: the validation split is not stratified: {'; '.join(found)}"
