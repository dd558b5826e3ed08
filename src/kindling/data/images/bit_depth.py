"""The range of values of 16-bit images, which is scaled to 8 bits."""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kindling.data.images.decode import in_parallel
from kindling.utils.inputs import Levels, values_of_16_bits
from kindling.utils.text import count_part

logger = logging.getLogger(__name__)


def find_levels(files: Sequence[str], threads: int | None = None) -> list[int] | None:
    """Return the lowest and highest value of 16-bit images, without 0.1% of the pixels at each end.

    Returns None if they are at least half of all values apart, or equal. Reads with a number of
    `threads`, by default one per core.
    """
    return _levels_of(_count_values(files, threads))


def _count_values(files: Sequence[str | bytes], threads: int | None) -> NDArray[np.int64]:
    """Return the number of pixels with each 16-bit value in images (paths or contents), (65536,)."""
    counts, lock = np.zeros(65536, np.int64), threading.Lock()

    def add(file: str | bytes) -> None:
        found = _histogram(file)
        with lock:
            np.add(counts, found, out=counts)

    in_parallel(add, files, "reading", threads)
    return counts


def _levels_of(counts: NDArray[np.int64]) -> list[int] | None:
    low = _quantile(counts, 0.001)
    counts[: low + 1] = 0  # most pixels of some images are background
    high = _quantile(counts, 0.999) if counts.any() else low
    return [low, high] if 0 < high - low < 32768 else None


def warn_small_range(
    names: Sequence[str | Path], levels: Levels, contents: Sequence[bytes] = (), threads: int | None = None
) -> None:
    """Warn if 16-bit images look nearly constant to the model, as the training images had other `levels`.

    `names` are the paths, unless `contents` has the files.
    """
    files: Sequence[str | bytes] = contents or [*map(str, names)]
    deep = [number for number, file in enumerate(files) if _is_deep(file)]
    if not deep:
        return
    counts, fault = _count_values([files[number] for number in deep[:20]], threads), ""
    if levels is None and (used := _levels_of(counts)):
        fault = f"in a small part of the range, {used[0]:,} to {used[1]:,} of 65,535"
    elif levels and 2 * counts[levels[0] : levels[1] + 1].sum() < counts.sum():
        fault = f"mostly outside of the training range, {levels[0]:,} to {levels[1]:,}"
    if fault:
        logger.warning(
            f"{count_part(len(deep), len(names), 'images', 'has', 'have')} 16 bits, {fault}, such as "
            f"{names[deep[0]]}: unlike in training, so the model sees nearly constant pixels"
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
    except Exception:  # Pillow may raise any exception for a damaged file, which is reported when it is decoded
        return np.zeros(65536, np.int64)
    colors = values[..., : (values.shape[2] - 1) // 2 * 2 + 1]  # without the alpha channel
    return np.bincount(colors.ravel(), minlength=65536)


def _quantile(counts: NDArray[np.int64], fraction: float) -> int:
    """Return a quantile of values from their histogram."""
    cumulative = counts.cumsum()
    return int(np.searchsorted(cumulative, fraction * cumulative[-1]))
