"""Augmentation of a whole batch at once, on its device, each sample by itself."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(images: Tensor, degrees: float = 0.0, shift: float = 0.0, scale: float = 0.0) -> Tensor:
    """Rotates, shifts and scales each image by amounts drawn for it alone; what comes in at the edges repeats them.

    Args:
        images: Floats, shape (N, C, H, W).
        degrees: Largest rotation to either side.
        shift: Largest shift along each axis, as a share of its length.
        scale: Largest change of size: 0.1 draws factors from 0.9 to 1.1.

    Returns:
        The changed images, shape (N, C, H, W).
    """
    if not (degrees or shift or scale):
        return images
    n, _, height, width = images.shape
    angle, zoom, dx, dy = torch.empty(4, n, device=images.device, dtype=images.dtype).uniform_(-1, 1)
    angle, zoom = angle * math.radians(degrees), 1 / (1 + zoom * scale)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    # Maps coordinates of the result, each axis from -1 to 1, to those of the source; a long side has larger steps.
    theta = torch.stack(
        [
            torch.stack([cos, -sin * height / width, 2 * shift * dx], dim=1),
            torch.stack([sin * width / height, cos, 2 * shift * dy], dim=1),
        ],
        dim=1,
    )  # (N, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
