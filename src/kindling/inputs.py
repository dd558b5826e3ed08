"""Raw inputs of a model from what people hold: image files and numbers.

Needs nothing else of Kindling: an archive for TorchServe carries this file as it is.
"""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # no other reader of Pillow opens a file that calls itself one of them

# Of files that are none of these, what their first bytes say they are.
BEGINNINGS = {b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"ftyp": "a HEIC, AVIF or video", b"%PDF": "a PDF"}


def decode_image(data: bytes, shape: tuple[int, ...], most_pixels: int | None = None) -> Tensor:
    """Decodes an image file: its centre as bytes (C, H, W), upright, transparency on white.

    It is resized until one side fits and the other does not lack anything; of that, both ends are cut.

    Args:
        data: What the file holds.
        shape: (C, H, W) of the result; one channel is grey, three are red, green and blue.
        most_pixels: Images of which more would have to be decoded are refused before that.

    Raises:
        ValueError: If it is broken, or so large that it can only be meant to fill the memory.
    """
    height, width = shape[1:]
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # A large JPEG is decoded at a fraction, but not below this, whichever way it has to be turned.
            image.draft(None, (2 * max(height, width), 2 * max(height, width)))
            if most_pixels and image.width * image.height > most_pixels:
                raise ValueError(f"{image.width} x {image.height} pixels to decode, more than {most_pixels:,}")
            return fit_image(image, shape)
    except UnidentifiedImageError as error:
        kind = next((kind for start, kind in BEGINNINGS.items() if data.find(start, 0, 8) in (0, 4)), "something else")
        raise ValueError(f"this image is broken: it is {kind}, not {', '.join(FORMATS)}") from error
    except Exception as error:  # damaged files make Pillow's readers raise anything
        raise ValueError(f"this image is broken: {error}") from error


def fit_image(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """A picture as `decode_image` gives it."""
    channels, height, width = shape
    plain = as_8_bit(upright(image))
    scale = min(plain.width / width, plain.height / height)  # pixels of the picture to one of the result
    left, top = int(plain.width - scale * width) // 2, int(plain.height - scale * height) // 2
    box = (left, top, left + scale * width, top + scale * height)
    resized = plain.resize((width, height), Image.Resampling.BILINEAR, box)  # antialiased
    pixels = np.array(resized.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1)


def upright(image: Image.Image) -> Image.Image:
    """The same picture as the camera was held; as it is where what says so is damaged."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is read by Pillow's reader of TIFF, which raises anything too
        return image


def as_8_bit(image: Image.Image) -> Image.Image:
    """The same picture in 8 bits of grey or RGB, transparency on white."""
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip
        return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def as_float(inputs: Tensor) -> Tensor:
    """Bytes 0..255 as floats in [0, 1]; floats as they are, but no double ones, which NumPy makes of everything."""
    if inputs.dtype == torch.uint8:
        return inputs.float() / 255
    return inputs.float() if inputs.dtype == torch.float64 else inputs


def grey(images: Tensor) -> Tensor:
    """How bright each pixel of (N, 3, H, W) looks, shape (N, 1, H, W): ITU-R BT.601 as torchvision rounds it."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def from_numbers(values: Any, shape: tuple[int, ...]) -> Tensor:
    """Takes one sample or several as numbers.

    Args:
        values: Nested lists, an array or a tensor. Images as bytes (uint8) or as numbers in [0, 1]; the channels may
            come last, and be left out where there is but one.
        shape: Shape of a sample: (C, H, W) or (F,).

    Returns:
        Floats, shape (N, *shape).

    Raises:
        ValueError: If they are no such numbers.

    Examples:
        A grey image of 1 x 2 pixels without its channel, then a batch of two rows of features:

        >>> from_numbers([[0, 0.5]], shape=(1, 1, 2)).shape
        torch.Size([1, 1, 1, 2])
        >>> from_numbers([[1, 2, 3], [4, 5, 6]], shape=(3,)).shape
        torch.Size([2, 3])
    """
    try:
        inputs = torch.from_numpy(_as_array(values))
    except (TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"inputs must be numbers in lists of equal length: {error}") from error
    inputs = _in_shape(inputs, shape)
    if inputs.dtype != torch.uint8 or len(shape) < 3:
        inputs = inputs.float()
    inputs = as_float(inputs)
    if not inputs.isfinite().all():
        raise ValueError("inputs must be finite numbers: there is a NaN or an infinite one")
    if len(shape) == 3 and not (inputs.min() >= 0 and inputs.max() <= 1):
        raise ValueError(
            f"images are numbers from 0 to 1, not from {inputs.min():g} to {inputs.max():g}: divide them by 255, or "
            "give bytes (uint8) or an image file"
        )
    return inputs


def _as_array(values: Any) -> "np.ndarray[Any, Any]":
    if isinstance(values, Tensor):
        # NumPy knows no bfloat16.
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    array = np.array(values, order="C")  # a copy: torch takes no array that is read-only or mirrored
    if array.dtype.kind not in "uif":
        known = {"O": "something else", "c": "a complex number"}
        raise ValueError(f"there is {known.get(array.dtype.kind, 'text or true or false')}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return array if array.dtype == np.uint8 else array.astype(np.float32)


def _in_shape(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same values as (N, *shape), where there is one way to see them so."""
    candidates = [inputs, inputs.unsqueeze(0)]
    if len(shape) == 3:
        candidates += [candidate.movedim(-1, -3) for candidate in candidates if candidate.ndim == 4]
        if shape[0] == 1:
            candidates += [candidate.unsqueeze(1) for candidate in candidates if candidate.ndim == 3]
    for candidate in candidates:
        if candidate.shape[1:] == shape and len(candidate):
            return candidate
    one = ", ".join(map(str, shape))
    raise ValueError(f"inputs must have the shape ({one}) or (N, {one}), not {tuple(inputs.shape)}")
