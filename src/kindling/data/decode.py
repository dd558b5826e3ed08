"""Image files of any kind and size as RGB bytes of one size, read on all cores."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from kindling.inputs import FORMATS, as_float, decode_image

CHUNK = 64  # files a thread takes at a time: handing them over one by one would cost as much as a small file

Item = TypeVar("Item")
Made = TypeVar("Made")


class Facts(NamedTuple):
    """What is known of an image file without decoding it.

    Attributes:
        digest: The same for files of the same content.
        side: Its shorter side in pixels; None where it can't be read or is no image.
    """

    digest: bytes
    side: int | None


class ImageFiles:
    """Images that are decoded as they are asked for, a batch (n, 3, size, size) of bytes at a time.

    Args:
        paths: Their files.
        size: Height and width of the results.
    """

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths = paths
        self.size = size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ImageFiles(self.paths[index], self.size)
        return torch.stack([read_image(self.paths[number], (3, self.size, self.size)) for number in index.tolist()])


def in_parallel(function: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """The function of each item, in order, from as many threads as there are cores: Pillow decodes without the GIL."""

    def work(start: int) -> list[Made]:
        return [function(item) for item in items[start : start + CHUNK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made: Iterable[list[Made]] = pool.map(work, range(0, len(items), CHUNK))
        return list(chain.from_iterable(made))


def inspect(path: str) -> Facts:
    """Reads a file but decodes nothing."""
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return Facts(blake2b(data, digest_size=16).digest(), min(image.size))
    except Exception:  # damaged files make Pillow's readers raise anything
        return Facts(path.encode(), None)


def read_image(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Decodes a file as bytes (C, H, W), see `decode_image`.

    Raises:
        ValueError: If the file is broken.
    """
    try:
        return decode_image(Path(path).read_bytes(), shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_images(paths: Sequence[str], size: int, used: int, in_memory: bool) -> tuple[Tensor | ImageFiles, list[str]]:
    """Decodes files, to use them or only to see whether that can be done.

    Args:
        paths: The files.
        size: Height and width of the results.
        used: How many of them, from the first on, are to be used.
        in_memory: Whether to keep these in memory; else they are decoded anew as they are asked for.

    Returns:
        The images to be used, (n, 3, size, size), without broken ones; and of each file what is wrong with it, if
        anything.
    """
    images = torch.empty(used if in_memory else 0, 3, size, size, dtype=torch.uint8)

    def read(number: int) -> str:
        try:
            image = decode_image(Path(paths[number]).read_bytes(), (3, size, size))
        except (OSError, ValueError) as error:
            return str(error)
        if number < len(images):
            images[number] = image
        return ""

    faults = in_parallel(read, range(len(paths)))
    whole = [number for number in range(used) if not faults[number]]
    if not in_memory:
        return ImageFiles([paths[number] for number in whole], size), faults
    return (images if len(whole) == used else images[whole]), faults


def channel_moments(images: Tensor | ImageFiles, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by channel, as floats in [0, 1]; the latter is 1 where all is the same.

    Args:
        images: Bytes, shape (N, 3, H, W). Of those that have to be read anew, 1,000 are chosen.
        number: N.
        seed: Seed of the choice.
    """
    chosen = torch.arange(number)
    if isinstance(images, ImageFiles):
        chosen = torch.randperm(number, generator=torch.Generator().manual_seed(seed))[:1000]
    # By image, then over the images: floats of all of them would take four times their memory.
    by_image = [torch.var_mean(as_float(images[part]), (2, 3), correction=0) for part in torch.split(chosen, 64)]
    var, mean = (torch.cat(moments).double() for moments in zip(*by_image, strict=True))  # (N, 3) each
    std = (var.mean(0) + mean.var(0, correction=0)).sqrt()
    return mean.mean(0), std.where(std > 1e-4, 1.0)
