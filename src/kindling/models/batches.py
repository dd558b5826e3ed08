"""Check that the training batches are large enough for batch norm."""

import math

from torch import nn

from kindling.utils.text import count_noun


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
