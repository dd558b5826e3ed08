"""Where a network looked: integrated gradients, M. Sundararajan et al., ICML 2017.

They need no layer of a certain kind, so that they work for any network and for ensembles. On images of noise with a
patch that decides the class, their maximum lies on the patch more often than that of Grad-CAM or HiResCAM, and far more
often for transformers, which mix all places of an image.
"""

from collections.abc import Sequence
from typing import cast

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn import functional as F

from kindling.models.task import BaseTask
from kindling.utils.tensors import to_float

BATCH_SIZE = 8
STEPS = 4  # more do not change where the maximum lies
SMOOTHING = 10  # averaged over squares of a tenth of the image, as single pixels say little


def is_whole(model: BaseTask) -> bool:
    """Return whether this process alone can compute the outputs of a model, whose weights are not sharded."""
    trainer = model._trainer
    return trainer is None or trainer.world_size == 1 or isinstance(trainer.strategy, DDPStrategy)


def attribution_maps(model: BaseTask, images: Tensor, weights: Sequence[Tensor]) -> list[Tensor] | None:
    """Return maps (N, H, W) of how much each place of an image adds to a weighted sum of the outputs.

    A place adds what changes when it gets its colors in place of the mean color of the image.

    Args:
        model: The model, of images.
        images: uint8, or floats in [0, 1], (N, C, H, W).
        weights: For each map, the weight of each output, (N, outputs); or of the only one, (N,).

    Returns:
        The maps; None if the images have no gradients.
    """
    model.eval()
    parts = []
    with torch.inference_mode(False), torch.enable_grad():
        for rows in torch.split(torch.arange(len(images)), BATCH_SIZE):
            batch, scores = to_float(images[rows]).to(model.mean), [each[rows].to(model.device) for each in weights]
            if (found := integrated_gradients(model, batch, scores)) is None:
                return None
            parts.append([_smooth(each.sum(1)).float().cpu() for each in found])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def integrated_gradients(model: BaseTask, images: Tensor, weights: Sequence[Tensor]) -> list[Tensor] | None:
    """Return the integrated gradients of weighted sums of the outputs, each (n, C, H, W); see `attribution_maps`."""
    start = images.mean((2, 3), keepdim=True).expand_as(images)
    totals = [torch.zeros_like(images) for _ in weights]
    for step in range(STEPS):
        point = start.lerp(images, (step + 0.5) / STEPS).requires_grad_()
        outputs = model(point.clone())  # a network may change its inputs in place
        if not outputs.requires_grad:
            return None
        for total, each in zip(totals, weights, strict=True):
            found = torch.autograd.grad((outputs * each).sum(), point, retain_graph=True, allow_unused=True)
            gradient = cast(Tensor | None, found[0])
            if gradient is None:
                return None
            total += gradient / STEPS
    return [(images - start) * total for total in totals]


def _smooth(maps: Tensor) -> Tensor:
    """Return the moving average of maps (n, H, W)."""
    width = 2 * (min(maps.shape[1:]) // SMOOTHING // 2) + 1
    return F.avg_pool2d(maps[:, None], width, stride=1, padding=width // 2, count_include_pad=False)[:, 0]
