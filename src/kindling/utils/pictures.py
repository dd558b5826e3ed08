"""Samples as pictures for people to look at."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from kindling.utils.inputs import to_float


def are_pictures(samples: Any) -> bool:
    """Whether samples are images in grey or colour, (N, 1 or 3, H, W)."""
    return isinstance(samples, Tensor) and samples.ndim == 4 and samples.shape[1] in (1, 3)


def as_picture(image: Tensor, side: int) -> Image.Image:
    """An image, small ones enlarged pixel by pixel, large ones shrunk.

    Args:
        image: Bytes or floats in [0, 1], shape (C, H, W).
        side: Pixels of its longer side in the picture.
    """
    shown, factor = to_float(image)[None], side / max(image.shape[1:])
    size = [max(1, round(length * factor)) for length in image.shape[1:]]
    if factor > 1:
        shown = F.interpolate(shown, size, mode="nearest-exact")
    elif factor < 1:
        shown = F.interpolate(shown, size, mode="bilinear", antialias=True)
    pixels = (shown[0].clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)  # (H, W, C)
    return Image.fromarray(pixels.squeeze(-1).cpu().numpy())
