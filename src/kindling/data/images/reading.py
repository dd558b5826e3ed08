"""Images of a data module: in memory if they fit, else decoded on demand or read from a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path

from torch import Tensor

from kindling.data.disk_cache import DiskCache
from kindling.data.images.decode import ImageFiles, read_images
from kindling.data.images.pixel_cache import PixelCache, open_pixel_cache
from kindling.data.images.samples import Sample
from kindling.utils.inputs import Levels


@dataclass(frozen=True)
class ImageReader:
    """Reads images, in memory if they fit.

    Attributes:
        shape: Shape of an image, (C, H, W).
        levels: The values of 16-bit images to scale to 0 and 255.
        memory_gb: Memory in GB that the images may take.
        cache: Where to keep decoded images that do not fit.
        cores: Number of threads that decode.
        begin: Where to begin if images are cached, as a fraction of their number.
    """

    shape: tuple[int, ...]
    levels: Levels
    memory_gb: float
    cache: DiskCache
    cores: int
    begin: float = 0.0

    def read(
        self, root: Path, samples: Sequence[Sample], needed: int | None = None, digests: Sequence[bytes] = ()
    ) -> tuple[Tensor | ImageFiles, list[str]]:
        """Return the images that are not broken, and the fault of each image, see `read_images`.

        Args:
            root: Folder of the images.
            samples: The images.
            needed: Number of images to return, from the first; by default all.
            digests: Hash of the content of each needed image, to find it in the cache; it is not cached without.
        """
        needed = len(samples) if needed is None else needed
        fits = needed * prod(self.shape) <= self.memory_gb * 1e9
        cache = self._open_cache(digests) if digests and not fits else None
        paths = [str(root / sample.file) for sample in samples]
        files = ImageFiles(paths, self.shape[-1], self.levels, cache, threads=self.cores)
        return read_images(files, needed, fits, int(needed * self.begin) if cache else 0)

    def _open_cache(self, digests: Sequence[bytes]) -> PixelCache | None:
        """Return the cache of training and validation images, which each epoch reads."""
        digest = blake2b(b"".join(digests), digest_size=16).hexdigest()
        return open_pixel_cache(self.cache, digest, "train", len(digests), self.shape, self.levels)
