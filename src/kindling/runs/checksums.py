"""Checksums of the tensors of a checkpoint."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROW_LENGTH = 4096  # 64-bit words of a tensor with the same weight in its checksum
CONTAINERS = (Tensor, dict, list, tuple)


def checksum(value: Any) -> int:
    """Return a checksum of all tensors in nested dictionaries and lists, in order; 0 if there are none.

    It is a weighted sum of 64-bit words: it detects a changed byte and a moved block, at the speed of memory.
    """
    weights = count(1, step=2)  # odd, so that each bit counts
    return sum(weight * _sum_of(tensor) for weight, tensor in zip(weights, _tensors(value), strict=False)) % 2**64


def _sum_of(tensor: Tensor) -> int:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    size = data.numel() // 8 * 8
    array: np.ndarray[Any, np.dtype[np.uint8]] = data.numpy()
    total = int.from_bytes(array[size:].tobytes(), "little")
    if size < 8 * ROW_LENGTH:  # for small tensors, NumPy is ten times as fast as torch
        return total + int(array[:size].view(np.int64).sum())
    words = data[:size] if data.storage_offset() % 8 == 0 else data[:size].clone()
    numbers = words.view(torch.int64)
    full = len(numbers) // ROW_LENGTH * ROW_LENGTH
    rows = torch.cat([numbers[:full].view(-1, ROW_LENGTH).sum(dim=1), numbers[full:].sum().view(1)])
    return total + int((rows * torch.arange(1, 2 * len(rows), 2)).sum())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            yield value
        return
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        if isinstance(item, CONTAINERS):  # skips the 624 numbers of a random generator's state
            yield from _tensors(item)
