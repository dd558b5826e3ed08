"""Raw inputs of a model from what people hold: image files and numbers.

Needs nothing of Kindling but `filetypes`: an archive for TorchServe carries both files as they are.
"""

import io
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from kindling.utils.filetypes import FORMATS, HEAD, kind_of

MAX_PIXELS = 178_956_970  # to decode of an image file: 0.7 GB as RGB; Pillow takes more than that for an attack

Levels = Sequence[int] | None  # 16-bit values that become 0 and 255; None: 0 and 65,535


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Open an image file of any size as Pillow does, without its limit, which calls a large photo an attack.

    Raises:
        UnidentifiedImageError: If the file is no image of `FORMATS`.
    """
    Image.init()
    file.seek(0)
    start = file.read(16)
    for factory, accept in (Image.OPEN[name] for name in FORMATS):
        if accept is None or accept(start) is True:
            file.seek(0)
            with suppress(SyntaxError, IndexError, TypeError, struct.error):  # what Pillow's readers raise for others
                return factory(file, "")
    raise UnidentifiedImageError


def decode_image(data: bytes, shape: tuple[int, ...], most_pixels: int | None = None, levels: Levels = None) -> Tensor:
    """Decode an image file: its centre as bytes (C, H, W), upright, transparency on white.

    It is resized until one side fits and the other does not lack anything; of that, both ends are cut.

    Args:
        data: What the file holds.
        shape: (C, H, W) of the result; one channel is grey, three are red, green and blue.
        most_pixels: For files of strangers: a smaller limit on the pixels to decode, which also limits the file's own
            size to `MOST_PIXELS`. A large JPEG is decoded at a fraction of its size.
        levels: The values of a 16-bit image that become 0 and 255.

    Raises:
        ValueError: If the file is broken, or too large to decode.
    """
    height, width = shape[1:]
    try:
        with open_image(io.BytesIO(data)) as image:
            size = image.size
            # A large JPEG is decoded at a fraction, but not below this, whichever way it has to be turned.
            image.draft(None, (2 * max(height, width), 2 * max(height, width)))
            if not is_too_large(size, image.size, most_pixels):
                return fit_image(with_16_bits(image, data, levels), shape, levels)
            pixels = f"{size[0]:,} x {size[1]:,} pixels"
    except Image.DecompressionBombError as error:  # Pillow's reader of WebP has a limit of its own
        pixels = f"{int(re.findall('[0-9]+', str(error))[0]):,} pixels"
    except UnidentifiedImageError as error:
        raise ValueError(f"this image is broken: it is {kind_of(data[:HEAD])}, not {', '.join(FORMATS)}") from error
    except Exception as error:  # damaged files make Pillow's readers raise anything
        raise ValueError(f"this image is broken: {error or type(error).__name__}") from error
    limit = most_pixels or MAX_PIXELS
    raise ValueError(
        f"this image is too large: {pixels}, of which at most {limit:,} can be decoded; make it smaller or save it as "
        "JPEG"
    )


def is_too_large(size: tuple[int, int], decoded: tuple[int, int], most_pixels: int | None) -> bool:
    """Whether an image of some size, decoded at another, exceeds a limit; see `decode_image`."""
    if most_pixels and size[0] * size[1] > MAX_PIXELS:
        return True
    return decoded[0] * decoded[1] > (most_pixels or MAX_PIXELS)


def fit_image(image: Image.Image, shape: tuple[int, ...], levels: Levels = None) -> Tensor:
    """Resize and cut a picture as `decode_image` does."""
    channels, height, width = shape
    plain = as_8_bit(apply_exif_orientation(image), levels)
    scale = min(plain.width / width, plain.height / height)  # pixels of the picture to one of the result
    left, top = int(plain.width - scale * width) // 2, int(plain.height - scale * height) // 2
    box = (left, top, left + scale * width, top + scale * height)
    resized = plain.resize((width, height), Image.Resampling.BILINEAR, box)  # antialiased
    pixels = np.array(resized.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1)


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """The same picture as the camera was held; as it is where what says so is damaged."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is read by Pillow's reader of TIFF, which raises anything too
        return image


def as_8_bit(image: Image.Image, levels: Levels = None) -> Image.Image:
    """The same picture in 8 bits of grey or RGB, transparency on white."""
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip
        return Image.fromarray(scale_to_8_bit(np.asarray(image), levels))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def has_16_bits(image: Image.Image, data: bytes) -> bool:
    """Whether an image file holds 16 bits a channel; of the formats that are read, only PNG can."""
    return image.format == "PNG" and data[24:25] == b"\x10"


def values_of_16_bits(data: bytes) -> "np.ndarray[Any, Any]":
    """Decode a 16-bit PNG to all its bits, (H, W, C); of colours Pillow by itself reads the upper 8."""

    def read(mode: str | None = None) -> "np.ndarray[Any, Any]":
        with open_image(io.BytesIO(data)) as image:
            if mode:
                image.tile = [tile._replace(args=mode) for tile in image.tile]
            return np.array(image)

    with open_image(io.BytesIO(data)) as image:
        mode = str(image.tile[0].args)
    if mode == "LA;16B":  # as large as RGBA in 8 bits
        pairs: np.ndarray[Any, Any] = read("RGBA").view(">u2")
        return pairs
    values = read()
    if values.ndim == 2:
        return values[..., np.newaxis]
    values = values.astype(np.uint16) << 8
    values |= read(mode.replace("16B", "16L"))  # the lower bytes, by the other order
    return values


def with_16_bits(image: Image.Image, data: bytes, levels: Levels) -> Image.Image:
    """The same image; of 16-bit colours, or grey with transparency, with all their bits in place of the upper 8."""
    if not has_16_bits(image, data) or image.mode.startswith("I"):
        return image
    values = values_of_16_bits(data)
    channels = 4 if values.shape[2] % 2 == 0 else 3
    colours = scale_to_8_bit(values[..., : (values.shape[2] - 1) // 2 * 2 + 1], levels)
    alpha = scale_to_8_bit(values[..., -1:], None)[..., : channels - 3]
    colours = np.broadcast_to(colours, (*values.shape[:2], 3))
    scaled = Image.fromarray(np.ascontiguousarray(np.concatenate([colours, alpha], axis=2)))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def scale_to_8_bit(values: "np.ndarray[Any, Any]", levels: Levels) -> "np.ndarray[Any, Any]":
    """Scale 16-bit values so that `levels` become 0 and 255, and cut what lies outside."""
    low, high = levels or (0, 65535)
    scaled: np.ndarray[Any, Any] = (values.astype(np.float32) - low) * np.float32(255 / (high - low))
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)


def to_float(inputs: Tensor) -> Tensor:
    """Bytes 0..255 as floats in [0, 1]; floats as they are, but no double ones, which NumPy makes of everything."""
    if inputs.dtype == torch.uint8:
        return inputs.float() / 255
    return inputs.float() if inputs.dtype == torch.float64 else inputs


def rgb_to_grayscale(images: Tensor) -> Tensor:
    """How bright each pixel of (N, 3, H, W) looks, shape (N, 1, H, W): ITU-R BT.601 as torchvision rounds it."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def to_input_tensor(values: Any, shape: tuple[int, ...]) -> Tensor:
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

        >>> to_input_tensor([[0, 0.5]], shape=(1, 1, 2)).shape
        torch.Size([1, 1, 1, 2])
        >>> to_input_tensor([[1, 2, 3], [4, 5, 6]], shape=(3,)).shape
        torch.Size([2, 3])
    """
    inputs = torch.from_numpy(_as_array(values))
    if not inputs.numel():
        raise ValueError(f"there are no samples: give at least one of shape ({', '.join(map(str, shape))})")
    inputs = _in_shape(inputs, shape)
    if inputs.dtype != torch.uint8 or len(shape) < 3:
        inputs = inputs.float()
    inputs = to_float(inputs)
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
    try:
        array = np.array(values, order="C")  # a copy: torch takes no array that is read-only or mirrored
    except (TypeError, ValueError, MemoryError, OverflowError) as error:
        raise ValueError("inputs must be numbers in lists of equal length; some are longer or deeper") from error
    if array.dtype.kind not in "uif":
        known = {"O": "null, an object or a number that is too large", "c": "a complex number"}
        found = known.get(array.dtype.kind, "text or true or false")
        raise ValueError(f"inputs must be numbers in lists of equal length: there is {found}")
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
        if candidate.shape[1:] == shape:
            return candidate
    one = ", ".join(map(str, shape))
    raise ValueError(f"inputs must have the shape ({one}) or (N, {one}), not {tuple(inputs.shape)}")
