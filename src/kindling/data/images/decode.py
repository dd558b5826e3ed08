"""Image files of any kind and size as RGB bytes of one size, read on all cores."""

import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kindling.utils.console import progress
from kindling.utils.inputs import Levels, decode_image, has_16_bits, open_image, to_float, values_of_16_bits
from kindling.utils.text import count_noun

logger = logging.getLogger(__name__)

CHUNK = 64  # files a thread takes at a time: handing them over one by one would cost as much as a small file

Item = TypeVar("Item")
Made = TypeVar("Made")


class ImageInfo(NamedTuple):
    """What is known of an image file without decoding it.

    Attributes:
        digest: The same for files of the same content.
        side: Its shorter side in pixels; None where it can't be read or is no image.
        deep: Whether it has 16 bits a channel.
    """

    digest: bytes
    side: int | None
    deep: bool = False


class ImageFiles:
    """Images that are decoded as they are asked for, a batch (n, 3, size, size) of bytes at a time.

    Args:
        paths: Their files.
        size: Height and width of the results.
        levels: The values of 16-bit images that become 0 and 255.
    """

    def __init__(self, paths: Sequence[str], size: int, levels: Levels = None) -> None:
        self.paths = paths
        self.size = size
        self.levels = levels

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ImageFiles(self.paths[index], self.size, self.levels)
        shape = 3, self.size, self.size
        return torch.stack([read_image(self.paths[number], shape, self.levels) for number in index.tolist()])


def in_parallel(function: Callable[[Item], Made], items: Sequence[Item], what: str) -> list[Made]:
    """The function of each item, in order, from as many threads as there are cores: Pillow decodes without the GIL.

    Args:
        function: The function.
        items: The items.
        what: What is done to them, to print where it takes long.
    """

    def work(start: int) -> list[Made]:
        made = []
        for item in items[start : start + CHUNK]:
            made.append(function(item))
            done(1)
        return made

    text = f"{what} {count_noun(len(items), 'image', 'images')}"
    with progress(text, len(items)) as done, ThreadPoolExecutor(os.cpu_count()) as pool:
        made: Iterable[list[Made]] = pool.map(work, range(0, len(items), CHUNK))
        return list(chain.from_iterable(made))


def inspect(path: str) -> ImageInfo:
    """Reads a file but decodes nothing."""
    try:
        data = Path(path).read_bytes()
        with open_image(io.BytesIO(data)) as image:
            return ImageInfo(blake2b(data, digest_size=16).digest(), min(image.size), has_16_bits(image, data))
    except Exception:  # damaged files make Pillow's readers raise anything
        return ImageInfo(path.encode(), None)


def read_image(path: str | Path, shape: tuple[int, ...], levels: Levels = None) -> Tensor:
    """Decode a file as bytes (C, H, W), see `decode_image`.

    Raises:
        ValueError: If the file is broken.
    """
    try:
        return decode_image(Path(path).read_bytes(), shape, levels=levels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_images(
    paths: Sequence[str], size: int, used: int, in_memory: bool, levels: Levels = None
) -> tuple[Tensor | ImageFiles, list[str]]:
    """Decode files, to use them or only to see whether that can be done.

    Args:
        paths: The files.
        size: Height and width of the results.
        used: How many of them, from the first on, are to be used.
        in_memory: Whether to keep these in memory; else they are decoded anew as they are asked for.
        levels: The values of 16-bit images that become 0 and 255.

    Returns:
        The images to be used, (n, 3, size, size), without broken ones; and of each file what is wrong with it, if
        anything.
    """
    images = torch.empty(used if in_memory else 0, 3, size, size, dtype=torch.uint8)

    def read(number: int) -> str:
        try:
            image = decode_image(Path(paths[number]).read_bytes(), (3, size, size), levels=levels)
        except (OSError, ValueError) as error:
            return str(error)
        if number < len(images):
            images[number] = image
        return ""

    faults = in_parallel(read, range(len(paths)), "decoding")
    whole = [number for number in range(used) if not faults[number]]
    if not in_memory:
        return ImageFiles([paths[number] for number in whole], size, levels), faults
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
    by_image = [torch.var_mean(to_float(images[part]), (2, 3), correction=0) for part in torch.split(chosen, 64)]
    var, mean = (torch.cat(moments).double() for moments in zip(*by_image, strict=True))  # (N, 3) each
    std = (var.mean(0) + mean.var(0, correction=0)).sqrt()
    return mean.mean(0), std.where(std > 1e-4, 1.0)


def find_levels(files: Sequence[str | bytes]) -> list[int] | None:
    """Find the range of values that 16-bit images use, for `decode_image`: a few extreme pixels don't count.

    Args:
        files: Paths or contents of images of 16 bits.

    Returns:
        The range; None where they use at least half of all values, or just one.
    """
    counts = sum(in_parallel(_histogram, files, "measuring"), np.zeros(65536, np.int64))
    low = _quantile(counts, 0.001)
    counts[: low + 1] = 0  # most pixels of some images are background
    high = _quantile(counts, 0.999) if counts.any() else low
    return [low, high] if 0 < high - low < 32768 else None


def tell_small_range(names: Sequence[str | Path], levels: Levels, contents: Sequence[bytes] = ()) -> None:
    """Say that 16-bit images use a small part of their range where the training images had another depth or range.

    Args:
        names: The images, for messages.
        levels: The range of values that the training images use, if any.
        contents: What they hold; by default, `names` are their paths.
    """
    files: Sequence[str | bytes] = contents or [*map(str, names)]
    deep = [number for number, file in enumerate(files) if _is_deep(file)] if levels is None else []
    if deep and (used := find_levels([files[number] for number in deep[:20]])):
        logger.warning(
            f"{len(deep):,} of {len(names):,} images have 16 bits and use a small part of them, {used[0]:,} to "
            f"{used[1]:,} of 65,535, such as {names[deep[0]]}: unlike in training, so they are nearly constant to the "
            "model"
        )


def _is_deep(file: str | bytes) -> bool:
    head = file[:25] if isinstance(file, bytes) else b""
    if isinstance(file, str):
        with suppress(OSError), Path(file).open("rb") as stream:
            head = stream.read(25)
    return head.startswith(b"\x89PNG") and head[24:] == b"\x10"


def _histogram(file: str | bytes) -> NDArray[np.int64]:
    try:
        values = values_of_16_bits(file if isinstance(file, bytes) else Path(file).read_bytes())
    except Exception:  # damaged files make Pillow's readers raise anything; they are reported when decoded
        return np.zeros(65536, np.int64)
    colours = values[..., : (values.shape[2] - 1) // 2 * 2 + 1]  # without transparency
    return np.bincount(colours.ravel(), minlength=65536)


def _quantile(counts: NDArray[np.int64], share: float) -> int:
    """The value below or at which a share of all values lie, of which `counts` tells how often each occurs."""
    total = counts.cumsum()
    return int(np.searchsorted(total, share * total[-1]))
