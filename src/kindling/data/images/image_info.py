"""Size, bit depth and a hash of an image file, without decoding it."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kindling.utils.inputs import has_16_bits, open_image

SAMPLED = ("JPEG", "PNG", "WEBP")  # compressed formats, in which a change of some pixels also changes later bytes
SAMPLE = 65536  # bytes of each of the three parts of a large file that are hashed


class ImageInfo(NamedTuple):
    """Properties of an image file that need no decoding.

    Attributes:
        digest: Hash of the content, of large compressed files of their size, beginning, middle and end; of the path if
            the file is not a readable image.
        side: Shorter side in pixels; None if the file is not a readable image.
        deep: Whether it has 16 bits per channel.
        longer: Longer side in pixels.
    """

    digest: bytes
    side: int | None
    deep: bool = False
    longer: int = 0


def inspect(path: str) -> ImageInfo:
    """Return the properties of an image file without decoding it."""
    try:
        with Path(path).open("rb") as file, open_image(file) as image:
            side, deep, longer = min(image.size), has_16_bits(image, _read(file, 0, 25)), max(image.size)
            return ImageInfo(_digest(file, sampled=image.format in SAMPLED), side, deep, longer)
    except Exception:  # Pillow may raise any exception for a damaged file
        return ImageInfo(blake2b(path.encode(), digest_size=16).digest(), None)


def _digest(file: BinaryIO, sampled: bool) -> bytes:
    """Return a hash of a file; of its size and three parts if it is large and `sampled`."""
    size = file.seek(0, os.SEEK_END)
    if not sampled or size <= 3 * SAMPLE:
        return blake2b(_read(file, 0, size), digest_size=16).digest()
    digest = blake2b(str(size).encode(), digest_size=16)
    for start in (0, size // 2, size - SAMPLE):
        digest.update(_read(file, start, SAMPLE))
    return digest.digest()


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
