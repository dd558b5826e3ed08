"""Rows of tensors, collected batch by batch."""

from collections.abc import Sequence

from torch import Tensor


class RowBuffer:
    """Rows of several tensors on the CPU.

    They are copied to memory that is allocated once: a small tensor of each batch among the large temporary ones of the
    model fragments the heap, which took 18 GB in a validation of 20,000 samples with 100,000 classes.

    Args:
        capacity: Expected number of rows; more are possible.
    """

    def __init__(self, capacity: int = 0) -> None:
        self._capacity, self._rows = capacity, 0
        self._parts: list[Tensor] = []

    def __len__(self) -> int:
        return self._rows

    def add(self, parts: Sequence[Tensor]) -> None:
        """Add rows to each tensor, (n, ...)."""
        end = self._rows + len(parts[0])
        if not self._parts or end > len(self._parts[0]):
            size = max(end, self._capacity, 2 * self._rows)
            larger = [part.new_empty((size, *part.shape[1:]), device="cpu") for part in parts]
            for old, new in zip(self._parts, larger, strict=False):
                new[: self._rows] = old[: self._rows]
            self._parts = larger
        for kept, part in zip(self._parts, parts, strict=True):
            kept[self._rows : end] = part
        self._rows = end

    def take(self) -> list[Tensor]:
        """Return the tensors, (N, ...) each, and forget them; an empty list if nothing was added."""
        parts, rows = self._parts, self._rows
        self._parts, self._rows = [], 0
        return [part if len(part) == rows else part[:rows].clone() for part in parts]
