"""Augmentation of a whole batch at once, on its device, each sample by itself."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kindling.utils.inputs import rgb_to_grayscale


def affine(images: Tensor, angle: Tensor, zoom: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Turns, sizes and moves each image by its own amounts; what comes in at the edges repeats them.

    Args:
        images: Floats, shape (N, C, H, W).
        angle: Counter-clockwise rotation about the centre in radians, shape (N,).
        zoom: Factor of size, shape (N,).
        right: Shift to the right as a share of the width, shape (N,).
        down: Shift downwards as a share of the height, shape (N,).

    Returns:
        The changed images, shape (N, C, H, W).
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
    """Turns, moves, sizes and crops each image by amounts drawn for it alone.

    Args:
        images: Floats, shape (N, C, H, W).
        degrees: Largest rotation to either side.
        shift: Largest shift along each axis, as a share of its length.
        scale: Largest change of size: 0.1 draws factors from 0.9 to 1.1.
        crop: Smallest share of the area that is kept, at any place of the image, and enlarged to the whole.
    """
    if not (degrees or shift or scale or crop < 1):
        return images
    drawn = torch.empty(4, len(images), device=images.device).uniform_(-1, 1)
    zoom, right, down = 1 + scale * drawn[1], shift * drawn[2], shift * drawn[3]
    if crop < 1:
        enlarged = torch.empty(len(images), device=images.device).uniform_(crop, 1).rsqrt()
        # The window that is kept may move until its edge meets that of the image.
        place = torch.empty(2, len(images), device=images.device).uniform_(-0.5, 0.5) * zoom * (enlarged - 1)
        zoom, right, down = zoom * enlarged, right + place[0], down + place[1]
    return affine(images, math.radians(degrees) * drawn[0], zoom, right, down)


def random_flip(images: Tensor) -> Tensor:
    """Mirrors each image (N, C, H, W), left to right, with a chance of a half."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def colour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Changes brightness, then contrast, then saturation of each image by its own factors.

    Args:
        images: Floats in [0, 1], red, green and blue, shape (N, 3, H, W).
        brightness: Factor of all values, shape (N,); 0 gives black.
        contrast: Factor of the distance from the image's mean grey, shape (N,).
        saturation: Factor of the distance from each pixel's own grey, shape (N,).

    Returns:
        The changed images, shape (N, 3, H, W), in [0, 1].
    """
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    images = (images * brightness).clamp_(0, 1)
    images = torch.lerp(rgb_to_grayscale(images).mean((2, 3), keepdim=True), images, contrast).clamp_(0, 1)
    return torch.lerp(rgb_to_grayscale(images), images, saturation).clamp_(0, 1)


def random_colour(images: Tensor, strength: float) -> Tensor:
    """Changes brightness, contrast and saturation of each image (N, 3, H, W) by factors from 1 - strength to 1 +."""
    if not strength:
        return images
    return colour(images, *torch.empty(3, len(images), device=images.device).uniform_(1 - strength, 1 + strength))
