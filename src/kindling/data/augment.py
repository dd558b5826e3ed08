"""Augmentation of a whole batch at once, on its device, each sample by itself."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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


def random_affine(images: Tensor, degrees: float = 0.0, shift: float = 0.0, scale: float = 0.0) -> Tensor:
    """Turns, moves and sizes each image by amounts drawn for it alone.

    Args:
        images: Floats, shape (N, C, H, W).
        degrees: Largest rotation to either side.
        shift: Largest shift along each axis, as a share of its length.
        scale: Largest change of size: 0.1 draws factors from 0.9 to 1.1.
    """
    if not (degrees or shift or scale):
        return images
    drawn = torch.empty(4, len(images), device=images.device).uniform_(-1, 1)
    return affine(images, math.radians(degrees) * drawn[0], 1 + scale * drawn[1], shift * drawn[2], shift * drawn[3])
