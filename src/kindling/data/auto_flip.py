"""Decides whether mirrored images keep their labels, as photographs do, but digits and arrows don't."""

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from kindling.data.datasets import ArrayDataset
from kindling.utils.tensors import to_float

logger = logging.getLogger(__name__)

MIN_IMAGES, MAX_IMAGES = 30, 500
CHUNK = 64  # images that are converted to floats at a time
SIDE = 16  # pixels of the images that are compared


def keeps_labels(images: Tensor, targets: Tensor) -> bool:
    """Return whether the nearest neighbors of mirrored images match their labels as well as those of unchanged images.

    A difference counts if it is larger than two standard errors. Fewer than `MIN_IMAGES` images can't tell.

    Args:
        images: Floats, or uint8, shape (N, C, H, W).
        targets: Labels or numbers, shape (N,), or 0 and 1 for each class, shape (N, classes).
    """
    if len(images) < MIN_IMAGES:
        return False
    small = torch.cat([F.interpolate(to_float(part), (SIDE, SIDE), mode="area") for part in torch.split(images, CHUNK)])
    others = torch.eye(len(images)).bool()  # an image that is symmetric looks like itself
    targets = targets.unsqueeze(1) if targets.ndim == 1 else targets
    errors = []
    for queries in (small, small.flip(-1)):
        distance = torch.cdist(queries.flatten(1), small.flatten(1)).masked_fill(others, torch.inf)
        nearest = targets[distance.argmin(1)]
        different = (nearest - targets).abs() if targets.is_floating_point() else (nearest != targets).float()
        errors.append(different.mean(1))
    increase = errors[1] - errors[0]
    return bool(increase.mean() <= 2 * increase.std() / len(images) ** 0.5)


def choose_flip(train: ArrayDataset, seed: int) -> bool:
    """Return and log whether to mirror the images of a training set, judged by a random part of it."""
    rows = torch.arange(len(train))[:MAX_IMAGES]  # of few shards
    if not train.is_shuffled:
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:MAX_IMAGES].sort().values
    read = getattr(train.inputs, "read_in_threads", train.inputs.__getitem__)  # if images are decoded on demand
    flip = keeps_labels(read(rows), train.labels[rows])
    reason = "mirrored images look like others of the same label"
    if not flip:
        reason = "mirrored images look less like others of their label"
        if len(rows) < MIN_IMAGES:
            reason = f"fewer than {MIN_IMAGES} training images can't tell whether mirrored ones keep their label"
        reason += "; --data.flip true mirrors them anyway"
    logger.info(f"--data.flip {str(flip).lower()} is chosen: {reason}")
    return flip
