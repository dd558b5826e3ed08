"""Images of a folder to prepare: their files, or pixels."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kindling.data.datamodule import SPLITS
from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.images.decode import shrink_image
from kindling.data.images.folder_checks import warn_oddities
from kindling.data.images.samples import Sample
from kindling.data.images.trained import TRAINED
from kindling.data.statistics import image_moments
from kindling.utils.inputs import decode_image


class ImageSource:
    """Images of an `ImageFolderDataModule`: their files, or pixels.

    Args:
        data: The data module.
        size: Height and width of the pixels to store; None to store files.
        shorter_side: Pixels of the shorter side above which a smaller JPEG is stored instead of the file.
    """

    kind = "images"

    def __init__(self, data: ImageFolderDataModule, size: int | None, shorter_side: int | None) -> None:
        self.data, self.size, self.shorter_side, self.origin = data, size, shorter_side, data.origin
        data.image_size = size or data.image_size
        data.skip_broken = True
        data.prepare_data()
        self.samples = {split: [each for each in data._samples if each.split == split] for split in SPLITS}
        self.counts = {split: len(samples) for split, samples in self.samples.items() if samples}
        self.targets = {split: data._encode(self.samples[split]) for split in self.counts}
        self.shape, self.levels = data.input_shape, data.fitted["levels"]
        self.fitted = {name: value for name, value in data.fitted.items() if name != TRAINED}

    def digest(self) -> str:
        """Return a hash of the images, their labels and splits."""
        digests = self.data._images.digests
        samples = [(*sample, digests[sample.file].hex()) for sample in chain(*self.samples.values())]
        return sha256(repr((samples, self.fitted)).encode()).hexdigest()

    def sizes(self, split: str) -> Sequence[int]:
        """Return the approximate size of each image of a split in bytes."""
        if self.size:
            return [3 * self.size**2] * self.counts[split]
        files = [sample.file for sample in self.samples[split]]
        sizes = [Path(self.data.data_dir, file).stat().st_size for file in files]
        if not self.shorter_side:
            return sizes
        sides = [self.data._images.infos[file].side or 1 for file in files]
        # Small images have more bytes per pixel.
        return [
            int(size * min(1, 2 * (self.shorter_side / side) ** 2)) for size, side in zip(sizes, sides, strict=True)
        ]

    def read(self, split: str, index: int) -> tuple[Any, Tensor, Tensor | None]:
        """Return the file or the pixels of an image, its target, and the variance and mean of its channels, (2, 3)."""
        content = Path(self.data.data_dir, self.name(split, index)).read_bytes()
        if self.shorter_side:
            content = shrink_image(content, self.shorter_side, self.levels)
        pixels = decode_image(content, self.shape, levels=self.levels)
        moments = torch.stack(image_moments(pixels))
        return pixels if self.size else content, self.targets[split][index], moments

    def name(self, split: str, index: int) -> str:
        """Return the path of an image relative to the folder."""
        return self.samples[split][index].file

    def metadata(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return the manifest's fields for images; warn about classes without images and about duplicates."""
        data = self.data
        usable: list[Sample] = [self.samples[split][index] for split, indices in kept.items() for index in indices]
        classes = data._images.check_classes(usable)
        warn_oddities(usable, [data._images.digests[each.file] for each in usable], classes, data.task)
        return {
            "task": data.task,
            "input_shape": self.shape,
            "class_names": () if data.task == "regression" else data.class_names,
            "fitted": {"task": "classification", **self.fitted},
            "names": ({"name": self.name("test", index)} for index in kept.get("test", ())),
        }
