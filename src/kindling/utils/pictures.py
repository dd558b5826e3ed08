"""Samples as PIL images, for reports and TensorBoard."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from kindling.utils.tensors import to_float


def are_images(samples: Any) -> bool:
    """Return whether samples are grayscale or RGB images, (N, 1 or 3, H, W)."""
    return isinstance(samples, Tensor) and samples.ndim == 4 and samples.shape[1] in (1, 3)


def to_pil_image(image: Tensor, side: int) -> Image.Image:
    """Return a PIL image of a given size; small images are enlarged without interpolation.

    Args:
        image: uint8, or floats in [0, 1]; shape (C, H, W).
        side: Length of the longer side of the result in pixels.
    """
    pixels, factor = to_float(image)[None], side / max(image.shape[1:])  # (1, C, H, W)
    size = [max(1, round(length * factor)) for length in image.shape[1:]]
    if factor > 1:
        pixels = F.interpolate(pixels, size, mode="nearest-exact")
    elif factor < 1:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    array = (pixels[0].clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)  # (H, W, C)
    return Image.fromarray(array.squeeze(-1).cpu().numpy())
