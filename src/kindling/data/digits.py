"""scikit-learn's digits, which need no download."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from kindling.data.classification import ClassificationDataModule
from kindling.data.datamodule import Batch, Split
from kindling.data.splitting import stratified_split
from kindling.utils.hyperparameters import check_range


class DigitsDataModule(ClassificationDataModule):
    """1,797 gray images of 8 x 8 in ten classes, half of them for testing (UCI handwritten digits).

    Args:
        shots: Training and validation images per class; by default all outside the test split.
        margin: Empty pixels added on each side; with 2, the digits fill as much of the image as in MNIST.
        **loading: Batches and validation split, see `BaseDataModule`. `split_seed` also selects the shots.

    Raises:
        ValueError: If a class has fewer images than `shots`.
    """

    num_classes = 10
    class_names = tuple("0123456789")

    def __init__(self, shots: int | None = None, margin: int = 0, **loading: Any) -> None:
        super().__init__(**loading)
        check_range("margin", margin, 0)
        self.shots = shots
        self.margin = margin
        self.input_shape = (1, 8 + 2 * margin, 8 + 2 * margin)

    @override
    def load(self, split: Split) -> Batch:
        from sklearn.datasets import load_digits  # imported here because it takes 2 s

        digits = load_digits()
        images = (torch.from_numpy(digits.images) * 255 / 16).round().to(torch.uint8)
        images = F.pad(images, [self.margin] * 4).unsqueeze(1)  # (N, 1, H, W)
        labels = torch.from_numpy(digits.target).long()
        train, test = stratified_split(labels, len(labels) // 2, seed=0)
        indices = test if split == "test" else train
        if split == "train" and self.shots is not None:
            indices = train[self._select_shots(labels[train], self.shots)]
        return images[indices], labels[indices]

    def _select_shots(self, labels: Tensor, shots: int) -> Tensor:
        """Return the indices of `shots` random samples per class."""
        check_range("shots", shots, 1, int(labels.bincount().min()))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.split_seed))
        return torch.cat([order[labels[order] == label][:shots] for label in range(self.num_classes)])
