"""A cache of decoded images on a disk."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import PIL
import torch
from torch import Tensor

from kindling import __version__
from kindling.data.disk_cache import PIXELS, DiskCache, is_locked, open_locked
from kindling.utils.files import locked
from kindling.utils.inputs import DECODING, Levels

logger = logging.getLogger(__name__)

CHECKSUM = 4  # bytes; zero if an image is missing


class PixelCache:
    """Decoded images in a file, shared by all processes of a run and by later runs.

    The file has a CRC-32 for each image, then the pixels of as many images as fit; the others are always decoded. An
    image with another checksum, such as one that a killed process wrote in part, is decoded and written again.

    Args:
        path: The file.
        images: Number of images, N.
        shape: Shape of an image, (C, H, W), of uint8.
    """

    def __init__(self, path: Path, images: int, shape: tuple[int, ...]) -> None:
        self.path, self.start, self.shape = path, CHECKSUM * images, shape
        self.stored = (os.fstat(self._file.fileno()).st_size - self.start) // prod(shape)  # images that it has room for
        self.is_writable = True

    @cached_property
    def _file(self) -> BinaryIO:
        return open_locked(self.path)

    def read(self, rows: Sequence[int], decode: Callable[[list[int]], Sequence[Tensor]]) -> Tensor:
        """Return the images in rows, (n, C, H, W); `decode` is called with those that are missing."""
        images = torch.empty(len(rows), *self.shape, dtype=torch.uint8)
        if 0 in rows:  # once per epoch
            with suppress(OSError):
                os.utime(self._file.fileno())  # used now
        missing = [place for place, row in enumerate(rows) if not self._load(row, images[place])]
        if missing:
            for place, image in zip(missing, decode([rows[place] for place in missing]), strict=True):
                images[place] = image
                self._save(rows[place], images[place])
        return images

    def has(self, start: int, end: int) -> bool:
        """Return whether all images in a range of rows were written."""
        with suppress(OSError):
            table = os.pread(self._file.fileno(), CHECKSUM * (end - start), CHECKSUM * start)
            return end <= self.stored and all(any(table[at : at + CHECKSUM]) for at in range(0, len(table), CHECKSUM))
        return False

    def _load(self, row: int, image: Tensor) -> bool:
        """Read an image into a tensor; return whether it is there and intact."""
        if row >= self.stored:
            return False
        with suppress(OSError):
            checksum = os.pread(self._file.fileno(), CHECKSUM, CHECKSUM * row)
            if any(checksum):
                os.preadv(self._file.fileno(), [image.numpy().data], self.start + row * image.nbytes)
                return checksum == _checksum(image)
        return False

    def _save(self, row: int, image: Tensor) -> None:
        if row >= self.stored or not self.is_writable:
            return
        try:
            os.pwrite(self._file.fileno(), image.numpy().data, self.start + row * image.nbytes)
            os.pwrite(self._file.fileno(), _checksum(image), CHECKSUM * row)
        except OSError as error:
            self.is_writable = False
            logger.warning(f"no more decoded images are cached: can't write {self.path}: {error.strerror}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}


def _checksum(image: Tensor) -> bytes:
    return crc32(image.numpy().data).to_bytes(CHECKSUM, "little")


def open_pixel_cache(
    cache: DiskCache,
    digest: str,
    split: str,
    images: int,
    shape: tuple[int, ...],
    levels: Levels,
    reserved_bytes: float = 0,
) -> PixelCache | None:
    """Return the decoded images of a split, for as many as there is room for; None if there is too little.

    Args:
        cache: Where to put them.
        digest: Hash of the content of all images, 32 hexadecimal digits.
        split: The split.
        images: Number of images.
        shape: Shape of an image, (C, H, W).
        levels: See `decode_image`.
        reserved_bytes: Bytes of the cache to leave free.
    """
    if not cache.limit or not hasattr(os, "preadv"):  # Windows
        return None
    decoded_as = sha256(repr((shape, levels, DECODING, __version__, PIL.__version__)).encode()).hexdigest()[:8]
    path = cache.root / digest / f"{split}-{images}-{decoded_as}{PIXELS}"
    table = CHECKSUM * images
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            with cache.unchanged():
                if path.exists() and path.stat().st_size > cache.limit - reserved_bytes and not is_locked(path):
                    path.unlink()
                known = (path.stat().st_size - table) // prod(shape) if path.exists() else 0
                stored = max(known, min(images, int(cache.room(besides=path) - reserved_bytes - table) // prod(shape)))
                if stored < images:
                    fitting = f"{max(stored, 0):,} of {images:,} decoded images fit into {cache.root}"
                    logger.info(f"{fitting} (--data.cache_gb)")
                if stored <= 0:
                    return None
                with path.open("ab") as file:
                    file.truncate(table + stored * prod(shape))
                os.utime(path)  # used now
                opened = PixelCache(path, images, shape)
            cache.make_room()
            return opened
    except OSError as error:
        logger.warning(f"decoded images are not cached: can't write to {cache.root}: {error.strerror}")
        return None
