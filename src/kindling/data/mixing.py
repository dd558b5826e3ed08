"""MixUp and CutMix of whole batches on their device, with an amount for each image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from kindling.data.augment import inside
from kindling.utils.hyperparameters import check_range


@dataclass(frozen=True)
class Mixing:
    """Mixes each image of a batch with another one, and their targets in the same proportion.

    Args:
        mixup: Parameter of the beta distribution of the share of the other image; 0 turns MixUp off.
        cutmix: The same for the area of a box that comes from the other image; 0 turns CutMix off. With both, each
            image is mixed by one of them, with equal probability.

    Raises:
        ValueError: If a parameter is negative.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        check_range("mixup", self.mixup, 0)
        check_range("cutmix", self.cutmix, 0)

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the mixed images (N, C, H, W) and the share of each class (N, num_classes).

        Targets are labels (N,), or 0 and 1 for each class (N, num_classes).
        """
        shares = (F.one_hot(targets, num_classes) if targets.ndim == 1 else targets).to(images.dtype)
        partner = torch.randperm(len(images), device=images.device)
        cuts = torch.rand(len(images), device=images.device) < (0.5 if self.mixup and self.cutmix else self.cutmix > 0)
        other = images[partner]
        mixed, kept = self._blend(images, other) if self.mixup else (images, torch.ones_like(shares[:, 0]))
        if self.cutmix:
            cut, kept_outside = self._cut(images, other)
            mixed = torch.where(cuts.view(-1, 1, 1, 1), cut, mixed)
            kept = torch.where(cuts, kept_outside, kept)
        return mixed, torch.lerp(shares[partner], shares, kept.unsqueeze(1))

    def _blend(self, images: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        kept = _draw(self.mixup, images)
        return torch.lerp(other, images, kept.view(-1, 1, 1, 1)), kept

    def _cut(self, images: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.tensor(images.shape[:1:-1], device=images.device).unsqueeze(1)  # (W, H)
        half = (0.5 * (1 - _draw(self.cutmix, images)).sqrt() * size).floor()  # (2, N)
        center = (torch.rand(2, len(images), device=images.device) * size).floor()
        # Cut off at the edges of the image, as in the paper.
        start, end = (center - half).clamp(min=0), torch.minimum(center + half, size)
        box = inside(images, start, end)
        return torch.where(box, other, images), 1 - box.to(images.dtype).mean((1, 2, 3))


def _draw(parameter: float, images: Tensor) -> Tensor:
    """Return a value from a symmetric beta distribution for each image, (N,)."""
    both = torch.tensor(parameter, dtype=torch.float32, device=images.device)  # torch draws none of 16 bits
    return Beta(both, both).sample((len(images),)).to(images.dtype)
