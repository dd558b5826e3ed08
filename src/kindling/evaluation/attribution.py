"""Regions that influenced a prediction: expected gradients, G. Erion et al., Nature Machine Intelligence 3 (2021).

They are integrated gradients (M. Sundararajan et al., ICML 2017) from several baselines. They need no layer of a
certain kind, so that they work for any network and for ensembles. A baseline must not reveal the class: a transformer
that averages the colors of the whole image gives the mean color of an image the same score as the image, and the map
of the difference adds up to 0. Shuffled pixels of other images hold neither the colors of the image nor shapes.
"""

from collections.abc import Sequence
from typing import cast
from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional as F

from kindling.models.task import BaseTask
from kindling.utils.tensors import to_float

BATCH_SIZE = 8
STEPS = 8  # each from another baseline; 32 put 6 percentage points more of the maps of transformers on the right region
SMOOTHING = 10  # averaged over squares of a tenth of the image, as single pixels say little


def attribution_maps(model: BaseTask, images: Tensor, weights: Sequence[Tensor], others: Tensor) -> list[Tensor] | None:
    """Return maps (N, H, W) of how much each pixel of an image contributes to a weighted sum of the outputs.

    The contribution is the change when the pixel gets its colors instead of those of pixels of other images.

    Args:
        model: The model, of images.
        images: uint8, or floats in [0, 1], (N, C, H, W).
        weights: For each map, the weight of each output, (N, outputs); or of the only one, (N,).
        others: Images of the same kind from which pixels are drawn, (M, C, H, W).

    Returns:
        The maps; None if the images have no gradients.
    """
    model.eval()
    parts = []
    # Code that was compiled for training frees what the gradients of the next map need.
    with torch.inference_mode(False), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        for rows in torch.split(torch.arange(len(images)), BATCH_SIZE):
            batch, scores = to_float(images[rows]).to(model.mean), [each[rows].to(model.device) for each in weights]
            # From the image alone, so that its map does not depend on its index. One choice for all may be a bad one.
            seeds = [crc32(image.float().cpu().numpy().tobytes()) for image in images[rows]]
            baselines = [
                to_float(shuffled_pixels(others, [seed + step for seed in seeds])).to(model.mean)
                for step in range(STEPS)
            ]
            if (found := expected_gradients(model, batch, scores, baselines)) is None:
                return None
            parts.append([_smooth(each.sum(1)).float().cpu() for each in found])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def shuffled_pixels(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return an image (C, H, W) for each seed, of pixels drawn from all places of images (M, C, H, W)."""
    pixels = images.movedim(1, 0).flatten(1)  # (C, M * H * W)
    drawn = torch.stack(
        [
            torch.randint(pixels.shape[1], images.shape[2:], generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )
    return pixels[:, drawn.to(pixels.device)].movedim(0, 1)


def expected_gradients(
    model: BaseTask, images: Tensor, weights: Sequence[Tensor], baselines: Sequence[Tensor]
) -> list[Tensor] | None:
    """Return the expected gradients of the images with respect to the baselines, (n, C, H, W) each.

    They use one interpolation step per baseline.

    Returns:
        The values for each of the weights, see `attribution_maps`; None if the images have no gradients.
    """
    totals = [torch.zeros_like(images) for _ in weights]
    for step, baseline in enumerate(baselines):
        point = baseline.lerp(images, (step + 0.5) / len(baselines)).requires_grad_()
        outputs = model(point.clone())  # a network may change its inputs in place
        if not outputs.requires_grad:
            return None
        for total, each in zip(totals, weights, strict=True):
            found = torch.autograd.grad((outputs * each).sum(), point, retain_graph=True, allow_unused=True)
            gradient = cast(Tensor | None, found[0])
            if gradient is None:
                return None
            total += (images - baseline) * gradient / len(baselines)
    return totals


def _smooth(maps: Tensor) -> Tensor:
    """Return the moving average of maps (n, H, W)."""
    width = 2 * (min(maps.shape[1:]) // SMOOTHING // 2) + 1
    return F.avg_pool2d(maps[:, None], width, stride=1, padding=width // 2, count_include_pad=False)[:, 0]
