"""Input tensors from image files.

Imports only `filetypes` from Kindling: a TorchServe archive contains copies of both files.
"""

import io
import math
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from kindling.utils.filetypes import FORMATS, HEAD, kind_of

MAX_PIXELS = 178_956_970  # of a decoded image, 0.7 GB as RGB; above it, Pillow suspects an attack

DECODING = 2  # version of the pixels that `decode_image` returns: caches keep those of each version apart
REDUCED = 3  # a JPEG is decoded at a reduced size of at least this many pixels for each of the result
_Turn = Image.Transpose
# How to turn pixels upright by their EXIF orientation, as in Pillow's `exif_transpose`.
FLIPS = {2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM}
TRANSPOSITIONS = {5: _Turn.TRANSPOSE, 6: _Turn.ROTATE_270, 7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90}

Levels = Sequence[int] | None  # 16-bit values to map to 0 and 255; None: 0 and 65,535


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Open an image file of any size: like `Image.open`, but without its limit on pixels.

    Raises:
        UnidentifiedImageError: If the file is not an image in one of `FORMATS`.
    """
    Image.init()
    file.seek(0)
    start = file.read(16)
    for factory, accept in (Image.OPEN[name] for name in FORMATS):
        if accept is None or accept(start) is True:
            file.seek(0)
            with suppress(SyntaxError, IndexError, TypeError, struct.error):  # raised for other formats
                return factory(file, "")
    raise UnidentifiedImageError


def decode_image(data: bytes, shape: tuple[int, ...], max_pixels: int | None = None, levels: Levels = None) -> Tensor:
    """Decode an image file, resize it and crop its center; apply its EXIF orientation and put it on white.

    A JPEG that is much larger than the result is decoded at 1/2, 1/4 or 1/8 of its size, photographs of 12 megapixels
    four times as fast. Pixels of photographs then differ by 0.3 of 255 on average, where bilinear and bicubic differ by
    1.5; those of fine stripes and black-and-white noise by up to 2.3.

    Args:
        data: Content of the file.
        shape: (C, H, W) of the result; one channel is grayscale, three are RGB.
        max_pixels: For untrusted files: a lower limit on the decoded pixels; the image itself must have at most
            `MAX_PIXELS` then.
        levels: The values of a 16-bit image to map to 0 and 255.

    Returns:
        The pixels as uint8, shape (C, H, W).

    Raises:
        ValueError: If the file is broken, or too large to decode.
    """
    side = math.ceil(REDUCED * max(shape[1:]))
    try:
        with open_image(io.BytesIO(data)) as image:
            pixels = f"{image.width:,} x {image.height:,} pixels"
            too_large = max_pixels and math.prod(image.size) > MAX_PIXELS
            full = image.size
            image.decodermaxblock = len(data)  # at once: by default, Pillow decodes blocks of 64 KB
            image.draft(None, (side, side))  # not smaller, whatever the orientation of the photograph
            if not too_large and math.prod(image.size) <= (max_pixels or MAX_PIXELS):
                reduced = round(full[0] / image.width)  # the reduced sides are rounded up
                return fit_image(with_16_bits(image, data, levels), shape, levels, [side / reduced for side in full])
    except Image.DecompressionBombError:  # Pillow's WebP reader has its own limit
        pixels = "more pixels than Pillow decodes"
    except UnidentifiedImageError as error:
        raise ValueError(f"this image is broken: it is {kind_of(data[:HEAD])}, not {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises all kinds of errors for damaged files
        raise ValueError(f"this image is broken: {str(error) or type(error).__name__}") from error
    raise ValueError(
        f"this image is too large: {pixels}, the limit is {max_pixels or MAX_PIXELS:,}; resize it or save it as JPEG"
    )


def fit_image(image: Image.Image, shape: tuple[int, ...], levels: Levels = None, sides: Sequence[float] = ()) -> Tensor:
    """Resize and crop an image as `decode_image` does; `sides` are its width and height unless they are integers."""
    image.load()
    orientation = exif_orientation(image)
    turn = (FLIPS | TRANSPOSITIONS).get(orientation)
    channels, height, width = shape
    if orientation in TRANSPOSITIONS:
        height, width = width, height
    plain = as_8_bit(image, levels)
    right, bottom = sides or plain.size
    scale = min(right / width, bottom / height)  # input pixels per output pixel
    left, top = max(0.0, (right - scale * width) / 2), max(0.0, (bottom - scale * height) / 2)  # -1e-14 is an error
    box = (left, top, min(left + scale * width, right), min(top + scale * height, bottom))
    resized = _resize(plain, (width, height), box, rows_first=orientation in TRANSPOSITIONS)
    if turn is not None:
        resized = resized.transpose(turn)
    mode = "L" if channels == 1 else "RGB"
    pixels = np.array(resized if resized.mode == mode else resized.convert(mode))
    return torch.from_numpy(pixels).view(*shape[1:], channels).permute(2, 0, 1)


def _resize(image: Image.Image, size: tuple[int, int], box: Sequence[float], rows_first: bool) -> Image.Image:
    """Resize part of an image, antialiased, one axis after the other: Pillow rounds in between, in varying order.

    Columns of the upright photograph come first, as in an exported file that takes photographs.
    """
    (width, height), (left, top, right, bottom) = size, box
    margin = 1 + max(1.0, (right - left) / width)  # pixels outside of the box that the filter needs
    x, y = max(0, int(left - margin)), max(0, int(top - margin))
    part = image.crop(
        (x, y, min(image.width, math.ceil(right + margin)), min(image.height, math.ceil(bottom + margin)))
    )
    left, right, top, bottom = left - x, right - x, top - y, bottom - y
    steps: list[tuple[tuple[int, int], tuple[float, float, float, float]]]
    if rows_first:
        steps = [((part.width, height), (0, top, part.width, bottom)), ((width, height), (left, 0, right, height))]
    else:
        steps = [((width, part.height), (left, 0, right, part.height)), ((width, height), (0, top, width, bottom))]
    for step, edges in steps:
        part = part.resize(step, Image.Resampling.BILINEAR, edges)
    return part


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if it is invalid or the EXIF data is damaged."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises all kinds of errors for damaged EXIF data
        return 1
    return orientation if orientation in range(1, 9) else 1


def as_8_bit(image: Image.Image, levels: Levels = None) -> Image.Image:
    """Convert an image to 8-bit grayscale or RGB, transparency on white."""
    if image.mode.startswith("I"):  # 16-bit grayscale, which `convert` would clip
        return Image.fromarray(scale_to_8_bit(np.asarray(image), levels))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")  # which copies RGB


def has_16_bits(image: Image.Image, data: bytes) -> bool:
    """Return whether an image file has 16 bits per channel; of `FORMATS`, only PNG can."""
    return image.format == "PNG" and data[24:25] == b"\x10"


def values_of_16_bits(data: bytes) -> "np.ndarray[Any, Any]":
    """Decode a 16-bit PNG with all its bits, (H, W, C); Pillow reads only the upper 8 of colors."""
    from torchvision.io import ImageReadMode, decode_png  # takes a second

    values = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)  # (C, H, W)
    return np.asarray(values.movedim(0, -1))


def with_16_bits(image: Image.Image, data: bytes, levels: Levels) -> Image.Image:
    """Return an image whose 16-bit colors, or gray with transparency, are scaled by `levels`; others unchanged."""
    if not has_16_bits(image, data) or image.mode.startswith("I"):
        return image
    values = values_of_16_bits(data)
    channels = 4 if values.shape[2] % 2 == 0 else 3
    colors = scale_to_8_bit(values[..., : (values.shape[2] - 1) // 2 * 2 + 1], levels)
    alpha = scale_to_8_bit(values[..., -1:], None)[..., : channels - 3]
    colors = np.broadcast_to(colors, (*values.shape[:2], 3))
    scaled = Image.fromarray(np.ascontiguousarray(np.concatenate([colors, alpha], axis=2)))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def scale_to_8_bit(values: "np.ndarray[Any, Any]", levels: Levels) -> "np.ndarray[Any, Any]":
    """Scale 16-bit values so that `levels` become 0 and 255, and clip the rest."""
    low, high = levels or (0, 65535)
    scaled: np.ndarray[Any, Any] = (values.astype(np.float32) - low) * np.float32(255 / (high - low))
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
