"""Input tensors from numbers, and conversions of them.

Imports nothing from Kindling: a TorchServe archive contains a copy of this file.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_float(inputs: Tensor) -> Tensor:
    """Convert uint8 to floats in [0, 1], and double to single precision; other floats are returned unchanged."""
    if inputs.dtype == torch.uint8:
        return inputs.float() / 255
    return inputs.float() if inputs.dtype == torch.float64 else inputs


def evenly_spaced(number: int, most: int) -> Tensor:
    """Return the indices of up to `most` of a number of samples, evenly spaced from the first to the last."""
    return torch.linspace(0, number - 1, min(number, most)).long()


def rgb_to_grayscale(images: Tensor) -> Tensor:
    """Convert (N, 3, H, W) to (N, 1, H, W) by ITU-R BT.601, with torchvision's coefficients."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def to_input_tensor(values: Any, shape: tuple[int, ...]) -> Tensor:
    """Convert one or more samples given as numbers to a tensor.

    Args:
        values: Nested lists, an array or a tensor. Images are uint8, or floats in [0, 1]; the channels may come last,
            and be omitted if there is only one.
        shape: Shape of a sample: (C, H, W) or (F,).

    Returns:
        Floats, shape (N, *shape).

    Raises:
        ValueError: If the values, or their shape, are invalid.

    Examples:
        A grayscale image of 1 x 2 pixels without its channel, then a batch of two rows of features:

        >>> to_input_tensor([[0, 0.5]], shape=(1, 1, 2)).shape
        torch.Size([1, 1, 1, 2])
        >>> to_input_tensor([[1, 2, 3], [4, 5, 6]], shape=(3,)).shape
        torch.Size([2, 3])
    """
    inputs = torch.from_numpy(_as_array(values))
    if not inputs.numel():
        raise ValueError(f"there are no samples: give at least one of shape ({', '.join(map(str, shape))})")
    inputs = _reshape(inputs, shape)
    inputs = to_float(inputs) if len(shape) == 3 else inputs.float()
    low, high = (limit.item() for limit in inputs.aminmax())  # NaN if there is any
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("inputs must be finite numbers, got NaN or infinity")
    if len(shape) == 3 and not (low >= 0 and high <= 1):
        raise ValueError(
            f"image values must be between 0 and 1, got {low:g} to {high:g}: divide them by 255, or "
            "pass uint8 values or an image file"
        )
    return inputs


def _as_array(values: Any) -> "np.ndarray[Any, Any]":
    if isinstance(values, Tensor):
        # NumPy has no bfloat16.
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    try:
        array = np.array(values, order="C")  # a copy: torch rejects arrays that are read-only or have negative strides
        if array.dtype == object and all(type(value) in (int, float) for value in array.flat):
            array = array.astype(np.float64)  # an integer of more than 64 bits
    except (TypeError, ValueError, MemoryError, OverflowError) as error:
        raise ValueError("inputs must be numbers in lists of equal length: the lengths or depths differ") from error
    if array.dtype.kind not in "uif":
        found = {"O": "null, an object or a number that is too large", "c": "a complex number"}.get(array.dtype.kind)
        raise ValueError(f"inputs must be numbers in lists of equal length, got {found or 'text or booleans'}")
    with np.errstate(over="ignore"):  # values that are too large become infinite; the caller rejects them
        return array if array.dtype == np.uint8 else array.astype(np.float32)


def _reshape(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the values with shape (N, *shape)."""
    candidates = [inputs, inputs.unsqueeze(0)]
    if len(shape) == 3:
        candidates += [candidate.movedim(-1, -3) for candidate in candidates if candidate.ndim == 4]
        if shape[0] == 1:
            candidates += [candidate.unsqueeze(1) for candidate in candidates if candidate.ndim == 3]
    for candidate in candidates:
        if candidate.shape[1:] == shape:
            return candidate
    one = ", ".join(map(str, shape))
    raise ValueError(f"inputs must have the shape ({one}) or (N, {one}), not {tuple(inputs.shape)}")
