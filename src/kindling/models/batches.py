"""The structure and the size of batches."""

import math
from typing import Any

from torch import Tensor, nn

from kindling.utils.text import count_noun
from kindling.utils.trees import tree_leaves


def check_batches(model: nn.Module, batch_size: int, samples: int, devices: int) -> None:
    """Raise ValueError if a training batch has a single sample, which has no variance for batch norm.

    Args:
        model: The model; permanently frozen layers are in evaluation mode and take any batch.
        batch_size: Batch size on each device.
        samples: Number of training samples.
        devices: Number of devices.
    """
    later = getattr(model, "will_unfreeze", False)
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and (module.training or later)
    ]
    if not norms or min(batch_size, math.ceil(samples / devices)) > 1:
        return
    reason = "--data.batch_size 1 is too small"
    if batch_size > 1:
        reason = f"got {count_noun(samples, 'training sample', 'training samples')} on {devices} devices"
    raise ValueError(f"batch norm ({norms[0]}) needs at least 2 samples in each training batch: {reason}")


def as_pair(batch: Any, model: object) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch.

    Raises:
        ValueError: If the batch has another structure.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    found = f"{len(batch)} items" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
    raise ValueError(
        f"{type(model).__name__} needs batches (inputs, targets), but the data module returns {found}: make each "
        "sample a pair; pass several inputs as a tuple or a dictionary, such as ((image, row), target)"
    )


def batch_size(targets: Any) -> int:
    """Return the number of samples in a batch, by the first tensor among its targets."""
    return next((len(leaf) for leaf in tree_leaves(targets) if isinstance(leaf, Tensor) and leaf.ndim), 1)
