"""Image files of any kind and size as RGB bytes of one size, read on all cores."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from kindling.inputs import FORMATS, decode_image

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"))
CHUNK = 64  # files a thread takes at a time: handing them over one by one would cost as much as a small file

Item = TypeVar("Item")
Made = TypeVar("Made")


class Facts(NamedTuple):
    """What is known of an image file without decoding it: a hash of its content and its shorter side in pixels."""

    digest: bytes
    side: int


class ImageFiles:
    """Images that are decoded as they are asked for, a batch (n, 3, size, size) of bytes at a time.

    Args:
        paths: Their files.
        size: Height and width of the results.
    """

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths = paths
        self.size = size

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([read_image(self.paths[number], (3, self.size, self.size)) for number in index.tolist()])

    def part(self, chosen: slice) -> "ImageFiles":
        """Some of them."""
        return ImageFiles(self.paths[chosen], self.size)


def in_parallel(function: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """The function of each item, in order, from as many threads as there are cores: Pillow decodes without the GIL."""

    def work(start: int) -> list[Made]:
        return [function(item) for item in items[start : start + CHUNK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made: Iterable[list[Made]] = pool.map(work, range(0, len(items), CHUNK))
        return list(chain.from_iterable(made))


def inspect(path: str) -> Facts | None:
    """Reads a file but decodes nothing; None where it is no whole image."""
    data = Path(path).read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not has_end(image.format, data):
                image.load()  # some that lack it can be decoded all the same
            return Facts(blake2b(data, digest_size=16).digest(), min(image.size))
    except Exception:  # damaged files make Pillow's readers raise anything
        return None


def has_end(kind: str | None, data: bytes) -> bool:
    """Whether an image file ends as its format asks for, so is not cut off."""
    match kind:
        case "JPEG" | "MPO":  # a marker of the end after the last beginning of pixels
            return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
        case "PNG":
            return b"IEND" in data[-12:]
        case "GIF":
            return data.endswith(b"\0;")
        case "WEBP":
            return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return len(data) >= int.from_bytes(data[2:6], "little") > 0  # BMP


def read_image(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Decodes a file as bytes (C, H, W), see `decode_image`.

    Raises:
        ValueError: If the file is broken.
    """
    try:
        return decode_image(Path(path).read_bytes(), shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_images(paths: Sequence[str], size: int, keep: bool) -> tuple[Tensor | ImageFiles, list[bool]]:
    """Decodes files, to keep them in memory or only to see whether that can be done.

    Returns:
        The images that are whole, (N, 3, size, size); and of each file whether it is.
    """
    images = torch.empty(len(paths) if keep else 0, 3, size, size, dtype=torch.uint8)

    def read(number: int) -> bool:
        try:
            image = read_image(paths[number], (3, size, size))
        except ValueError:
            return False
        if keep:
            images[number] = image
        return True

    whole = in_parallel(read, range(len(paths)))
    if not keep:
        return ImageFiles([path for path, good in zip(paths, whole, strict=True) if good], size), whole
    return (images if all(whole) else images[torch.tensor(whole)]), whole
