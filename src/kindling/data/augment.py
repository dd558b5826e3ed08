"""Augmentation of whole batches on their device, with random values drawn for each image."""

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kindling.data.auto_augment import AutoAugment, auto_augment, blend, gray
from kindling.utils.hyperparameters import check_range

RANGES = {
    "degrees": (0, 180),
    "shift": (0, 1),
    "scale": (0, 0.99),
    "crop": (0.01, 1),
    "ratio": (1, 10),
    "color": (0, 1),
    "erasing": (0, 1),
}
ATTEMPTS = 10  # of boxes that must fit into the image, as in torchvision


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the images of a batch (N, C, H, W); see `AugmentedImages` for the amounts.

    Raises:
        ValueError: If an amount is out of range.
    """

    degrees: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    crop: float = 1.0
    flip: bool | Literal["auto"] = False  # auto until the training images have been read
    color: float = 0.0
    ratio: float = 1.0
    auto_augment: AutoAugment | None = None
    erasing: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            check_range(name, getattr(self, name), low, high)
        if self.ratio > 1 and self.crop == 1:
            raise ValueError(
                f"--data.ratio {self.ratio:g} has no effect without a crop: set --data.crop to less than 1, such as 0.5"
            )

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) != field.default for field in fields(self))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the changed images."""
        assert self.flip != "auto", "AugmentedImages decides whether to flip"
        images = random_flip(images) if self.flip else images
        images = random_affine(images, self.degrees, self.shift, self.scale, self.crop, self.ratio)
        images = random_color(images, self.color)
        if self.auto_augment:
            images = auto_augment(images, self.auto_augment)
        return random_erasing(images, self.erasing)


def affine(images: Tensor, angle: Tensor, zoom: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Rotate, scale and translate each image by its own amounts, repeating the edge pixels beyond the edges.

    Args:
        images: Floats, shape (N, C, H, W).
        angle: Counter-clockwise rotation about the center in radians, shape (N,).
        zoom: Scale factor, shape (N,), or (2, N) for the width and the height.
        right: Shift to the right as a fraction of the width, shape (N,).
        down: Shift downwards as a fraction of the height, shape (N,).

    Returns:
        The transformed images, shape (N, C, H, W).
    """
    height, width = images.shape[-2:]
    cos, sin = (part.expand(2, -1) / zoom for part in (angle.cos(), angle.sin()))
    # Maps coordinates of the result, from -1 to 1 along each axis, to those of the source.
    to_source = torch.stack(
        [
            torch.stack([cos[0], -sin[1] * height / width], dim=1),
            torch.stack([sin[0] * width / height, cos[1]], dim=1),
        ],
        dim=1,
    )  # (N, 2, 2)
    shift = -to_source @ torch.stack([2 * right, 2 * down], dim=1).unsqueeze(2)  # (N, 2, 1)
    grid = F.affine_grid(torch.cat([to_source, shift], dim=2), list(images.shape), align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def random_affine(
    images: Tensor,
    degrees: float = 0.0,
    shift: float = 0.0,
    scale: float = 0.0,
    crop: float = 1.0,
    ratio: float = 1.0,
) -> Tensor:
    """Rotate, translate, scale and crop each image (N, C, H, W) by random amounts; see `AugmentedImages` for these."""
    if not (degrees or shift or scale or crop < 1 or ratio > 1):
        return images
    drawn = torch.empty(4, len(images), device=images.device).uniform_(-1, 1)
    zoom, moved = 1 + scale * drawn[1], shift * drawn[2:]
    if crop < 1 or ratio > 1:
        crop_zoom = 1 / random_sides(len(images), (crop, 1), (1 / ratio, ratio), images.device)
        # The cropped window must stay inside the image.
        offset = torch.empty(2, len(images), device=images.device).uniform_(-0.5, 0.5) * zoom * (crop_zoom - 1)
        zoom, moved = zoom * crop_zoom, moved + offset
    return affine(images, math.radians(degrees) * drawn[0], zoom, *moved)


def random_sides(number: int, area: tuple[float, float], ratio: tuple[float, float], device: torch.device) -> Tensor:
    """Return the width and height of random boxes that fit into an image, as fractions of its sides, (2, number).

    The logarithm of width / height is distributed uniformly.
    """
    areas = torch.empty(ATTEMPTS, number, device=device).uniform_(*area)
    ratios = torch.empty(ATTEMPTS, number, device=device).uniform_(*map(math.log, ratio)).exp()
    sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()])  # (2, ATTEMPTS, number)
    fits = sides.amax(0) <= 1
    first = fits.to(torch.uint8).argmax(0).expand(2, 1, -1)
    return torch.where(fits.any(0), sides.gather(1, first).squeeze(1), 1.0)


def random_erasing(images: Tensor, probability: float) -> Tensor:
    """Fill a random box of some images (N, C, H, W) with their mean color.

    The boxes are those of torchvision's RandomErasing: 2% to 33% of the area, with sides in a ratio of 0.3 to 3.3.
    """
    if not probability:
        return images
    size = torch.tensor(images.shape[:1:-1], device=images.device).unsqueeze(1)  # (W, H)
    sides = (random_sides(len(images), (0.02, 0.33), (0.3, 3.3), images.device) * size).round()  # (2, N)
    start = (torch.rand(2, len(images), device=images.device) * (size - sides + 1)).floor()
    erased = torch.rand(len(images), device=images.device) < probability
    box = inside(images, start, start + sides) & erased.view(-1, 1, 1, 1)
    return torch.where(box, images.mean((2, 3), keepdim=True), images)


def inside(images: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return which pixels of images (N, C, H, W) are in a box, (N, 1, H, W).

    A box is from a column and a row, `start`, to those after its last ones, `end`, (2, N) each.
    """
    columns, rows = (torch.arange(length, device=images.device) for length in images.shape[:1:-1])
    (left, top), (right, bottom) = start.view(2, -1, 1, 1, 1), end.view(2, -1, 1, 1, 1)
    rows = rows.unsqueeze(1)
    box: Tensor = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
    return box


def random_flip(images: Tensor) -> Tensor:
    """Flip each image (N, C, H, W) horizontally with probability 0.5."""
    flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def jitter_color(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation of each image by its own factors.

    Args:
        images: RGB floats in [0, 1], shape (N, 3, H, W).
        brightness: Factor of all values, shape (N,); 0 gives black.
        contrast: Factor of the difference from the mean gray value of the image, shape (N,).
        saturation: Factor of the difference from the gray value of each pixel, shape (N,).

    Returns:
        The transformed images, shape (N, 3, H, W), in [0, 1].
    """
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    images = (images * brightness).clamp_(0, 1)
    images = blend(gray(images).mean((2, 3), keepdim=True), images, contrast)
    return blend(gray(images), images, saturation)


def random_color(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of each image (N, 3, H, W) by factors in 1 ± strength."""
    if not strength:
        return images
    return jitter_color(images, *torch.empty(3, len(images), device=images.device).uniform_(1 - strength, 1 + strength))
