"""Samples held out of the training split, with the same share of every class."""

import torch
from torch import Tensor


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


def hold_out(labels: Tensor, name: str, share: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the indices of training samples in those left and those held out, as the argument `name` asks.

    Args:
        labels: Classes, shape (N,).
        name: Name of the argument, for the message.
        share: Its value: samples to hold out, or as a float, their share.
        seed: Seed of the split.

    Raises:
        ValueError: If none would be held out, or none left.
    """
    size = share if isinstance(share, int) else round(share * len(labels))
    if not 0 < size < len(labels):
        raise ValueError(
            f"{name}={share} holds out {size} of the {len(labels)} training samples: "
            "at least 1 must be held out and 1 left"
        )
    return stratified_split(labels, size, seed)
