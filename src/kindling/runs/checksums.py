"""Checksums of the tensors of a checkpoint."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROW = 4096  # words of a tensor that share a weight in its checksum
NESTED = (Tensor, dict, list, tuple)


def checksum(value: Any) -> int:
    """Return a checksum of all tensors in nested dictionaries and lists, in their order; 0 if there are none.

    The sum of a tensor's bytes, eight at a time, in rows with different weights: it changes with each single byte and
    with each block that moves, and is computed at the speed of memory.
    """
    weights = count(1, step=2)  # odd: each bit counts
    return sum(weight * _sum_of(tensor) for weight, tensor in zip(weights, _tensors(value), strict=False)) % 2**64


def _sum_of(tensor: Tensor) -> int:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    size = data.numel() // 8 * 8
    array: np.ndarray[Any, np.dtype[np.uint8]] = data.numpy()
    total = int.from_bytes(array[size:].tobytes(), "little")
    if size < 8 * ROW:  # torch takes ten times as long for a small tensor, of which a model may have thousands
        return total + int(array[:size].view(np.int64).sum())
    words = data[:size] if data.storage_offset() % 8 == 0 else data[:size].clone()
    numbers = words.view(torch.int64)
    whole = len(numbers) // ROW * ROW
    rows = torch.cat([numbers[:whole].view(-1, ROW).sum(dim=1), numbers[whole:].sum().view(1)])
    return total + int((rows * torch.arange(1, 2 * len(rows), 2)).sum())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            yield value
        return
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        if isinstance(item, NESTED):  # the state of a random generator is a list of 624 numbers
            yield from _tensors(item)
