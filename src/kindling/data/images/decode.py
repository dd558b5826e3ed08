"""Decoding of image files to uint8 RGB tensors of one size, on all cores."""

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from kindling.data.images.pixel_cache import PixelCache
from kindling.data.statistics import image_moments, pooled_moments
from kindling.utils.console import progress
from kindling.utils.cores import share_of_cores
from kindling.utils.inputs import (
    TRANSPOSITIONS,
    Levels,
    decode_image,
    exif_orientation,
    open_image,
)
from kindling.utils.text import count_noun

JPEG_QUALITY = 95  # pixels of photographs change by about 1 of 255
CHUNK_FILES = 16  # files per task of a thread: a task per file would cost as much as decoding a small file

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageFiles:
    """Images decoded on demand, a batch (n, 3, size, size) of uint8 at a time.

    Args:
        paths: Paths of the files.
        size: Height and width in pixels to resize to.
        levels: The values of 16-bit images to scale to 0 and 255.
        cache: Where decoded images are kept, by their index in `paths`.
        numbers: Indices of the images in `paths`; by default all.
        threads: Number of threads that decode outside of worker processes; by default one per core.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: int,
        levels: Levels = None,
        cache: PixelCache | None = None,
        numbers: Sequence[int] | None = None,
        threads: int | None = None,
    ) -> None:
        self.paths, self.size, self.levels, self.cache = paths, size, levels, cache
        self.threads = threads or share_of_cores()
        self.numbers = range(len(paths)) if numbers is None else numbers

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.select(self.numbers[index])
        return self.read([self.numbers[number] for number in index.tolist()])

    def select(self, numbers: Sequence[int]) -> "ImageFiles":
        """Return the images with some indices in `paths`."""
        return ImageFiles(self.paths, self.size, self.levels, self.cache, numbers, self.threads)

    def read(self, numbers: Sequence[int]) -> Tensor:
        """Return images by their indices in `paths`."""
        return self.cache.read(numbers, self._decode) if self.cache else torch.stack(self._decode(numbers))

    def read_in_threads(self, rows: Tensor) -> Tensor:
        """Return images like `self[rows]`, decoded in threads; not for worker processes, which share the cores."""
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.cat([*pool.map(lambda row: self[row.view(1)], rows)])

    def _decode(self, numbers: Sequence[int]) -> list[Tensor]:
        return [read_image(self.paths[number], (3, self.size, self.size), self.levels) for number in numbers]


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, threads: int | None = None
) -> list[Result]:
    """Apply a function to each item in threads, by default one per core, as Pillow releases the GIL.

    Args:
        function: The function.
        items: Its arguments.
        what: Name of the task for the progress bar.
        threads: Number of threads.
    """

    def work(start: int) -> list[Result]:
        results = []
        for item in items[start : start + CHUNK_FILES]:
            results.append(function(item))
            done(1)
        return results

    text = f"{what} {count_noun(len(items), 'image', 'images')}"
    with progress(text, len(items)) as done, ThreadPoolExecutor(threads or share_of_cores()) as pool:
        results: Iterable[list[Result]] = pool.map(work, range(0, len(items), CHUNK_FILES))
        return list(chain.from_iterable(results))


def read_image(path: str | Path, shape: tuple[int, ...], levels: Levels = None) -> Tensor:
    """Decode a file to uint8 (C, H, W), see `decode_image`; an error names the file if it is broken or gone."""
    try:
        return decode_image(Path(path).read_bytes(), shape, levels=levels)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} has disappeared since the images were listed: put it back") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def shrink_image(data: bytes, shorter_side: int, levels: Levels = None) -> bytes:
    """Return an image file as an upright JPEG whose shorter side has `shorter_side` pixels.

    A file whose image is not larger, or that is broken, is returned unchanged.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            turned = exif_orientation(image) in TRANSPOSITIONS
            width, height = image.size[::-1] if turned else image.size
    except Exception:  # Pillow may raise any exception for a damaged file, which is reported when it is decoded
        return data
    scale = shorter_side / min(width, height)
    if scale >= 1:
        return data
    pixels = decode_image(data, (3, round(scale * height), round(scale * width)), levels=levels)
    content = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, "jpeg", quality=JPEG_QUALITY)
    return content.getvalue()


def read_images(
    files: ImageFiles, needed: int, in_memory: bool, start: int = 0
) -> tuple[Tensor | ImageFiles, list[str]]:
    """Decode files, and find the broken ones among them.

    Args:
        files: The files.
        needed: Number of images to return, from the first; the others are only checked.
        in_memory: Whether to return a tensor; otherwise the images are decoded on demand, or read from their cache.
        start: Index of the file to begin with.

    Returns:
        The needed images (n, 3, size, size) that are not broken; and the fault of each file, "" if it has none.
    """
    images = torch.empty(needed if in_memory else 0, 3, files.size, files.size, dtype=torch.uint8)
    faults = [""] * len(files.paths)

    def read(number: int) -> None:
        try:
            (image,) = files.read([number])
        except (OSError, ValueError) as error:
            faults[number] = str(error.__cause__ or error)  # without the path
        else:
            if number < len(images):
                images[number] = image

    in_parallel(read, [*range(start, len(faults)), *range(start)], "decoding", files.threads)
    intact = [number for number in range(needed) if not faults[number]]
    if not in_memory:
        return files.select(intact), faults
    return (images if len(intact) == needed else images[intact]), faults


def channel_moments(images: Tensor | ImageFiles, seed: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, as floats in [0, 1]; the latter is 1 for constant images.

    Of images that are decoded on demand, 1,000 are sampled.
    """
    if isinstance(images, ImageFiles):
        indices = torch.randperm(len(images.numbers), generator=torch.Generator().manual_seed(seed))[:1000]
        parts: Iterable[Tensor] = map(images.read_in_threads, torch.split(indices, 64))
    else:
        parts = torch.split(images, 8)  # few, so that their doubles stay in the processor's cache
    # Per image, then over all images: doubles of all images would take eight times their memory.
    var, mean = (torch.cat(moments) for moments in zip(*map(image_moments, parts), strict=True))  # (N, 3) each
    return pooled_moments(mean.mean(0), (mean**2).mean(0), var.mean(0))
