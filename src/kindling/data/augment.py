"""Augmentation of whole batches on their device, with random values drawn for each image."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from kindling.utils.hyperparameters import check_range
from kindling.utils.inputs import rgb_to_grayscale

RANGES = {"degrees": (0, 180), "shift": (0, 1), "scale": (0, 0.99), "crop": (0.01, 1), "colour": (0, 1)}


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the images of a batch (N, C, H, W); see `ImageFolderDataModule` for the amounts.

    Raises:
        ValueError: If an amount is out of range.
    """

    degrees: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    crop: float = 1.0
    flip: bool = False
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            check_range(name, getattr(self, name), low, high)

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) != field.default for field in fields(self))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the changed images."""
        images = random_flip(images) if self.flip else images
        images = random_affine(images, self.degrees, self.shift, self.scale, self.crop)
        return random_colour(images, self.colour)


def affine(images: Tensor, angle: Tensor, zoom: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Rotate, scale and translate each image by its own amounts, repeating the edge pixels beyond the edges.

    Args:
        images: Floats, shape (N, C, H, W).
        angle: Counter-clockwise rotation about the center in radians, shape (N,).
        zoom: Scale factor, shape (N,).
        right: Shift to the right as a fraction of the width, shape (N,).
        down: Shift downwards as a fraction of the height, shape (N,).

    Returns:
        The transformed images, shape (N, C, H, W).
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # Maps coordinates of the result, from -1 to 1 along each axis, to those of the source.
    to_source = torch.stack(
        [
            torch.stack([cos, -sin * height / width], dim=1),
            torch.stack([sin * width / height, cos], dim=1),
        ],
        dim=1,
    )  # (N, 2, 2)
    shift = -to_source @ torch.stack([2 * right, 2 * down], dim=1).unsqueeze(2)  # (N, 2, 1)
    grid = F.affine_grid(torch.cat([to_source, shift], dim=2), list(images.shape), align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def random_affine(
    images: Tensor, degrees: float = 0.0, shift: float = 0.0, scale: float = 0.0, crop: float = 1.0
) -> Tensor:
    """Rotate, translate, scale and crop each image by random amounts.

    Args:
        images: Floats, shape (N, C, H, W).
        degrees: Largest rotation in either direction.
        shift: Largest shift along each axis, as a fraction of its length.
        scale: Largest change of size; 0.1 draws factors from 0.9 to 1.1.
        crop: Smallest fraction of the area to crop, at a random position, and resize to the whole image.
    """
    if not (degrees or shift or scale or crop < 1):
        return images
    drawn = torch.empty(4, len(images), device=images.device).uniform_(-1, 1)
    zoom, right, down = 1 + scale * drawn[1], shift * drawn[2], shift * drawn[3]
    if crop < 1:
        crop_zoom = torch.empty(len(images), device=images.device).uniform_(crop, 1).rsqrt()
        # The cropped window must stay inside the image.
        offset = torch.empty(2, len(images), device=images.device).uniform_(-0.5, 0.5) * zoom * (crop_zoom - 1)
        zoom, right, down = zoom * crop_zoom, right + offset[0], down + offset[1]
    return affine(images, math.radians(degrees) * drawn[0], zoom, right, down)


def random_flip(images: Tensor) -> Tensor:
    """Flip each image (N, C, H, W) horizontally with probability 0.5."""
    flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def colour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
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
    images = torch.lerp(rgb_to_grayscale(images).mean((2, 3), keepdim=True), images, contrast).clamp_(0, 1)
    return torch.lerp(rgb_to_grayscale(images), images, saturation).clamp_(0, 1)


def random_colour(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of each image (N, 3, H, W) by factors in 1 ± strength."""
    if not strength:
        return images
    return colour(images, *torch.empty(3, len(images), device=images.device).uniform_(1 - strength, 1 + strength))
