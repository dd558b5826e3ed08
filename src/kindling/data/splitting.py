"""Stratified splits for validation and test."""

import random
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kindling.data.array_types import Indices
from kindling.data.split_constraints import SplitConstraints

LEFT_OUT = "left out"  # split of samples without a target


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices of `labels` (N,) into two stratified parts, the second with `size` indices.

    Examples:
        >>> labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
        >>> kept, held_out = stratified_split(labels, size=3, seed=0)
        >>> labels[kept], labels[held_out]
        (tensor([0, 0, 0, 0, 1, 1]), tensor([0, 0, 1]))
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # Every (N / size)-th sample of the list sorted by class.
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class[torch.arange(size) * len(labels) // size]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def train_val_split(labels: Tensor, name: str, size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices of training samples with classes (N,) into those to train on and those held out.

    `size` is the number to hold out, or a fraction as a float; `name` is its argument.

    Raises:
        ValueError: If no sample would be held out, or all.
    """
    held_out = round(size * len(labels)) if is_fraction(size) else int(size)
    if not 0 < held_out < len(labels):
        raise ValueError(
            f"`{name}` must hold out at least 1 of {len(labels)} training samples and leave at least 1, "
            f"got {size}, which holds out {held_out}"
        )
    return stratified_split(labels, held_out, seed)


def is_fraction(size: int | float) -> bool:
    """Return whether a size is a fraction of all samples and not a number of samples.

    The parser may turn 500 into 500.0, as `int | float` equals `float | int` and Python caches one for both.
    """
    return isinstance(size, float) and (size <= 1 or not size.is_integer())


def draw_splits(
    labels: Indices,
    sizes: Mapping[str, int | float],
    seed: int,
    constraints: SplitConstraints = SplitConstraints(),  # noqa: B008 (it is frozen)
    are_classes: bool = True,
) -> NDArray[np.object_]:
    """Draw a split for each sample, (N,), stratified by label; samples with label -1 are left out.

    A label is a class or a range of numbers. Groups and times in `constraints` decide instead, if there are any.
    """
    splits = np.where(labels >= 0, "train", LEFT_OUT).astype(object)
    for name, size in sizes.items():
        rest = np.flatnonzero(splits == "train")
        fraction = _fraction_of(size, len(rest), constraints.noun, name)
        if constraints:
            splits[rest[constraints.hold_out(rest, labels[rest], name, fraction, seed, are_classes)]] = name
            continue
        drawn = rest[_draw_stratified(labels[rest], fraction, seed)]
        if not len(drawn):
            others = [split for split in sizes if split in splits]
            reason = f"the {others[0]} split leaves no class" if others else "no class has"
            raise ValueError(
                f"`{name}_split` is {size}, but {reason} two {constraints.noun}: one to train on and one for {name}"
            )
        splits[drawn] = name
    return splits


def _fraction_of(size: int | float, number: int, what: str, split: str) -> float:
    """Return a size as a fraction of `number` samples.

    Raises:
        ValueError: If none would be held out for the split, or all.
    """
    fraction = size if is_fraction(size) else size / max(number, 1)
    if not 0 < fraction < 1:
        raise ValueError(
            f"`{split}_split` must hold out at least 1 of {number:,} {what} and leave at least 1, got {size}"
        )
    return fraction


def _draw_stratified(labels: Indices, fraction: float, seed: int) -> list[int]:
    """Draw the indices of a fraction of the samples of each label (N,), at least one but never all."""
    by_label = defaultdict(list)
    for sample, label in enumerate(labels.tolist()):
        by_label[label].append(sample)
    rng, drawn = random.Random(seed), list[int]()
    for samples in by_label.values():
        rng.shuffle(samples)
        drawn += samples[: min(max(1, round(fraction * len(samples))), len(samples) - 1)]
    return drawn
