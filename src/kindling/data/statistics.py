"""Mean and standard deviation of training inputs."""

import torch
from torch import Tensor

MIN_STD = 1e-4  # a channel of images that varies less is constant


def moments_of(inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (1 if constant) per channel or feature of inputs (N, C, ...), (C,) each.

    Without inputs, or for integers such as tokens, they are 0 and 1, (1,) each.
    """
    if inputs is None or not inputs.is_floating_point():
        return torch.zeros(1), torch.ones(1)
    dims = (0, *range(2, inputs.ndim))  # all but C
    std = inputs.std(dim=dims)
    return inputs.mean(dim=dims), std.where(std > 0, 1.0)


def image_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return variance and mean of each channel of uint8 images (..., C, H, W), of values in [0, 1], (..., C) each.

    They are exact sums, so a constant channel has variance 0.
    """
    values = images.flatten(-2).double()
    mean = values.mean(-1)
    return (values.square_().mean(-1) - mean**2) / 255**2, mean / 255


def pooled_moments(mean: Tensor, square: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (1 if constant) per channel of many images, (C,) each.

    The arguments are the mean, squared mean and variance of a channel, averaged over the images, (C,) each.
    """
    std = (variance + square - mean**2).clamp(min=0).sqrt()
    return mean, std.where(std > MIN_STD, 1.0)
