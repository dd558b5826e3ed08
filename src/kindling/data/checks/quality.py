"""Images that are blank, very dark, very bright or blurred."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kindling.utils.tensors import to_float

SORTED = 4096  # pixels of an image, to find its darkest and brightest ones
FAULTS = ("blank", "very dark", "very bright", "blurred")
BLANK = 8 / 255  # largest difference of pixels in each channel of a blank image
DARK, BRIGHT = 25 / 255, 230 / 255  # nearly all pixels of a dark image are below, of a bright one above
EDGE = 0.01  # of the pixels at each end are left out
MIN_SIDE = 8  # pixels, of images whose sharpness is measured
BLURRED = 10.0  # times less sharp than the median image
DEVIATIONS = 4.0  # and so many robust standard deviations, of the logarithm of the sharpness
MAD_TO_STD = 1.4826  # of a normal distribution


def find_faults(batches: Iterable[Tensor]) -> dict[str, list[int]]:
    """Return the indices of the images with each of `FAULTS` that occurs.

    Sharpness is the variance of the Laplacian of an image in relation to the variance of the image, so that low
    contrast does not count as blur. An image is blurred in comparison with the others.

    Args:
        batches: Images, uint8 or floats in [0, 1], (n, C, H, W) each.
    """
    measures = [_measure(to_float(images).float()) for images in batches]
    contrast, low, high, sharpness = torch.cat(measures).numpy().T
    blank, dark = contrast <= BLANK, high < DARK
    bright = low > BRIGHT
    blurred = _is_low(sharpness, ~(blank | dark | bright))
    found = zip(FAULTS, (blank, dark & ~blank, bright & ~blank, blurred), strict=True)
    return {fault: np.flatnonzero(has).tolist() for fault, has in found if has.any()}


def _measure(images: Tensor) -> Tensor:
    """Return measures of images (n, C, H, W), shape (n, 4).

    They are the largest range of a channel, the darkest and brightest gray value without some pixels at each end, and
    the logarithm of the sharpness, NaN if all gray values are about equal.
    """
    gray = images.mean(1, keepdim=True)
    flat = gray.flatten(1)
    pixels = flat[:, :: 1 + flat.shape[1] // SORTED].sort(dim=1).values
    contrast = (images.amax((2, 3)) - images.amin((2, 3))).amax(1)
    edge = int(EDGE * pixels.shape[1])
    low, high = pixels[:, edge], pixels[:, -1 - edge]
    sharpness = torch.full_like(low, torch.nan)
    if min(gray.shape[2:]) >= MIN_SIDE:
        middle, rows, columns = gray[..., 1:-1, 1:-1], gray[..., 1:-1], gray[..., 1:-1, :]
        laplacian = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:] - 4 * middle
        sharpness = (laplacian.flatten(1).var(1) / flat.var(1)).log()
        sharpness[flat.amax(1) - flat.amin(1) <= BLANK] = torch.nan
    return torch.stack([contrast, low, high, sharpness], dim=1)


def _is_low(sharpness: NDArray[Any], comparable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which values are far below the median of the comparable ones, (N,)."""
    comparable = comparable & np.isfinite(sharpness)
    if not comparable.any():
        return comparable
    median = np.median(sharpness[comparable])
    deviation = MAD_TO_STD * np.median(np.abs(sharpness[comparable] - median))
    low: NDArray[np.bool_] = comparable & (sharpness < median - max(np.log(BLURRED), DEVIATIONS * deviation))
    return low
