"""Whether a network can be trained on batches as small as they would be."""

import math

from torch import nn


def check_batches(model: nn.Module, batch_size: int, samples: int, devices: int) -> None:
    """Raise ValueError where a training batch would be a single sample, for which batch norm has no variance.

    Args:
        model: What is frozen for good, in evaluation mode, keeps its statistics and takes any batch.
        batch_size: Samples in a batch on each device.
        samples: Training samples.
        devices: Number of devices that share them.
    """
    later = getattr(model, "waits", False)  # a frozen part that will be trained
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and (module.training or later)
    ]
    if not norms or min(batch_size, math.ceil(samples / devices)) > 1:
        return
    reason = "--data.batch_size 1 is too small"
    if batch_size > 1:
        reason = f"{samples} training sample{'s' * (samples > 1)} on {devices} devices are too few"
    raise ValueError(f"batch norm ({norms[0]}) needs at least 2 samples in each training batch: {reason}")
