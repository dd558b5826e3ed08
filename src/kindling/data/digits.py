"""scikit-learn's digits: small, from another source than MNIST, and there without a download."""

from typing import Any

import torch
from torch.nn import functional as F
from typing_extensions import override

from kindling.data.datamodule import Batch, ClassificationDataModule, Split
from kindling.data.splitting import stratified_split


class DigitsDataModule(ClassificationDataModule):
    """1,797 grey images of 8 x 8 in ten classes, half of them for testing (UCI optical recognition of digits).

    Args:
        shots: Labelled images of each class, those for validation among them; by default all that are not for testing.
        margin: Empty pixels added on each side: with 2 the digits lie in their frame as MNIST's do.
        **loading: Batches and validation split, see `ClassificationDataModule`. `split_seed` draws the shots too.

    Raises:
        ValueError: If there are not as many images.
    """

    num_classes = 10
    class_names = tuple("0123456789")

    def __init__(self, shots: int | None = None, margin: int = 0, **loading: Any) -> None:
        super().__init__(**loading)
        if margin < 0:
            raise ValueError(f"margin must not be negative: {margin}")
        self.shots = shots
        self.margin = margin
        self.input_shape = (1, 8 + 2 * margin, 8 + 2 * margin)

    @override
    def load(self, split: Split) -> Batch:
        from sklearn.datasets import load_digits  # 2 s to import, needed by this source alone

        digits = load_digits()
        images = (torch.from_numpy(digits.images) * 255 / 16).round().to(torch.uint8)
        images = F.pad(images, [self.margin] * 4).unsqueeze(1)  # (N, 1, H, W)
        labels = torch.from_numpy(digits.target).long()
        train, test = stratified_split(labels, len(labels) // 2, seed=0)
        chosen = test if split == "test" else train if self.shots is None else self._few(train, labels[train])
        return images[chosen], labels[chosen]

    def _few(self, indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The first `shots` of each class in a random order."""
        assert self.shots is not None
        fewest = int(labels.bincount().min())
        if not 1 <= self.shots <= fewest:
            raise ValueError(f"shots must be from 1 to {fewest}, not {self.shots}")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.split_seed))
        by_class = [order[labels[order] == label][: self.shots] for label in range(self.num_classes)]
        return indices[torch.cat(by_class)]
