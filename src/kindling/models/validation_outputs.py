"""The outputs of a classifier in a validation, from which its temperature and its threshold are chosen."""

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

MAX_ROWS = 50_000  # whose temperature takes a quarter of a second
MAX_NUMBERS = 4_000_000  # 16 MB; 4,000 rows of 1,000 classes


class ValidationOutputs:
    """Collects logits and labels on the device of the model.

    If they become too many, every second row is dropped as often as needed: positions of large pictures, or samples of
    very many classes.

    Args:
        classes: Number of classes.

    Attributes:
        limit: Number of rows from which they are too many.
        batches: Logits (n, classes, ...) and labels (n, ...); None once rows were dropped.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.limit = min(MAX_ROWS, max(1, MAX_NUMBERS // classes))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.batches: list[tuple[Tensor, Tensor]] | None = []
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._seen, self._every = 0, 1

    def add(self, logits: Tensor, labels: object, limit: float) -> None:
        """Add logits (n, classes, ...) and labels (n, ...), and keep at most `limit` rows of all batches.

        Targets that are not one class for each sample or position are ignored.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point() or logits[:, 0].shape != labels.shape:
            return
        if self.batches is not None:
            self.batches.append((logits, labels))
        rows, first = logits.movedim(1, -1).reshape(-1, self.classes), -self._seen % self._every
        self._seen += len(rows)
        self._rows.append((rows[first :: self._every], labels.flatten()[first :: self._every].long()))
        while sum(len(part) for part, _ in self._rows) > max(1, limit):
            self.batches, self._every = None, 2 * self._every
            kept, known = (torch.cat(parts)[::2].clone() for parts in zip(*self._rows, strict=True))
            self._rows = [(kept, known)]

    def gather(self, world_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the logits (N, classes) and labels (N,) that all processes keep."""
        # A process may have had no batch.
        empty = torch.empty(0, self.classes, device=device), torch.empty(0, dtype=torch.long, device=device)
        logits, labels = (torch.cat(parts) for parts in zip(empty, *self._rows, strict=True))
        if world_size > 1:
            logits, labels = (torch.cat(gather_all_tensors(part)) for part in (logits, labels))
        is_class = (labels >= 0) & (labels < self.classes)  # not the label of positions that a loss ignores
        return logits[is_class], labels[is_class]
