"""Samples held out for validation and test, with the same share of every class."""

import random
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Group = TypeVar("Group", bound=Hashable)


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the indices of `labels` (N,) in two, the second of `size`, each with the same share of every class.

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


def train_val_split(labels: Tensor, name: str, share: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the indices of training samples in those left and those held out, as the argument `name` asks.

    Args:
        labels: Classes, shape (N,).
        name: Name of the argument, for the message.
        share: Its value: samples to hold out, or as a float, their share.
        seed: Seed of the split.

    Raises:
        ValueError: If none would be held out, or none left.
    """
    size = round(share * len(labels)) if is_fraction(share) else int(share)
    if not 0 < size < len(labels):
        raise ValueError(
            f"{name}={share} holds out {size} of the {len(labels)} training samples: "
            "at least 1 must be held out and 1 left"
        )
    return stratified_split(labels, size, seed)


def is_fraction(size: int | float) -> bool:
    """Return whether a size is a fraction of all samples, and not a number of them.

    A parser may turn 500 into 500.0: to Python `int | float` and `float | int` are equal, and one is cached for both.
    """
    return isinstance(size, float) and (size <= 1 or not size.is_integer())


def sample_groups(classes: Mapping[Group, Hashable], what: str, split: str, size: int | float, seed: int) -> set[Group]:
    """Draws a share of each class, at least one of it but never the last.

    Args:
        classes: The class of each sample, or of each group of samples that stay together.
        what: What they are called in messages.
        split: What they are drawn for: val or test.
        size: How many to draw, about, or as a float, their share.
        seed: Seed of the draw.

    Raises:
        ValueError: If nothing would be drawn, or nothing be left.
    """
    share = size if is_fraction(size) else size / max(len(classes), 1)
    if not 0 < share < 1:
        raise ValueError(f"{split}_split={size} of {len(classes):,} {what}: at least 1 must be held out and 1 left")
    by_class = defaultdict(list)
    for group, label in classes.items():
        by_class[label].append(group)
    chance, drawn = random.Random(seed), set[Group]()
    for groups in by_class.values():
        chance.shuffle(groups)
        drawn.update(groups[: min(max(1, round(share * len(groups))), len(groups) - 1)])
    if not drawn:
        raise ValueError(f"{split}_split={size}: no class has enough {what} to hold one out for {split} and leave one")
    return drawn
