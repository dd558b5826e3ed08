"""Photographs to verify an exported file against its checkpoint."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from kindling.data.images.decode import read_image
from kindling.data.images.scan import list_images
from kindling.data.images.split_file import read_image_split
from kindling.deploy.export_wrapper import Compute, ExportWrapper, Outputs
from kindling.deploy.model_card import ModelCard
from kindling.deploy.verify import BATCH_SIZES, Comparison, RawModel, compare
from kindling.runs.folders import run_folder_of
from kindling.runs.signatures import is_own_checkpoint
from kindling.utils.inputs import as_8_bit, exif_orientation, fit_image, open_image, with_16_bits
from kindling.utils.tensors import to_float
from kindling.utils.text import count_noun

MADE_UP = max(BATCH_SIZES)  # photographs
MAX_FILES = 100  # test photographs to compare with
TOLERANCE = 0.01  # pixels are rounded to 1 of 255, and large JPEG files decoded at reduced size
SIDES = 32, 800  # pixels of made-up photographs

Photo = Image.Image | Path


def check_takes_photos(wrapper: ExportWrapper, card: ModelCard) -> None:
    """Raise ValueError if a model does not take photographs."""
    if len(wrapper.inputs) > 1 or not card.takes_images or card.input_shape[0] not in (1, 3):
        inputs = "several inputs" if len(wrapper.inputs) > 1 else f"inputs of shape {card.input_shape}"
        raise ValueError(f"--raw is for models of gray or RGB images, and of tables; {card.model} takes {inputs}")


def compare_photos(
    wrapper: ExportWrapper, compute: Compute, card: ModelCard, stored: Mapping[str, Any], checkpoint: Path
) -> Comparison:
    """Compare a file that takes photographs with its checkpoint.

    The photographs are made-up ones, and the test images of the run if they are still there. The file gets all pixels
    of an image (`as_pixels`); the checkpoint gets what `kindling predict` decodes.

    Raises:
        ValueError: If an output differs by more than the tolerance.
    """
    shape, levels = card.input_shape, card.levels
    compared = 1 if wrapper.is_classifier else None  # probabilities, not logits

    def encode(photos: Sequence[Photo]) -> Tensor:
        images = [
            read_image(photo, shape, levels) if isinstance(photo, Path) else fit_image(photo, shape) for photo in photos
        ]
        return to_float(torch.stack(images))

    def compute_all(photos: Sequence[Photo]) -> Outputs:
        by_photo = [compute(*as_pixels(photo, card)) for photo in photos]
        return tuple(torch.cat(parts) for parts in zip(*by_photo, strict=True))[:compared]

    photos = [*make_up_photos(), *_test_files(stored, checkpoint)]
    advice = "leave out --raw"
    comparison = compare(RawModel(wrapper, encode, compared), compute_all, (photos,), [len(photos)], TOLERANCE, advice)
    samples = f"{MADE_UP} made-up photographs"
    if len(photos) > MADE_UP:
        samples += f", then {count_noun(len(photos) - MADE_UP, 'test image', 'test images')}"
    return replace(comparison, scale=f"{comparison.scale}; compared on {samples}, both with their decoding")


def as_pixels(photo: Photo, card: ModelCard) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return the pixels of a photograph, uint8 of shape (H, W, 3 or 4), and its EXIF orientation."""
    if isinstance(photo, Image.Image):
        return np.asarray(photo), np.array(exif_orientation(photo), np.int32)
    data = photo.read_bytes()
    with open_image(io.BytesIO(data)) as file:
        file.load()
        image = with_16_bits(file, data, card.levels)
        pixels = np.asarray(as_8_bit(image, card.levels).convert("RGB"))
        return pixels, np.array(exif_orientation(image), np.int32)


def make_up_photos() -> list[Image.Image]:
    """Return photographs of different sizes, in all orientations, some with transparency."""
    random = np.random.default_rng(0)
    photos = []
    for number in range(MADE_UP):
        width, height = np.exp(random.uniform(math.log(SIDES[0]), math.log(SIDES[1]), size=2)).astype(int).tolist()
        coarse = random.integers(0, 256, (6, 8, 4 if number % 5 == 0 else 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        photo.getexif()[ExifTags.Base.Orientation] = 1 + number % 8
        photos.append(photo)
    return photos


def _test_files(stored: Mapping[str, Any], checkpoint: Path) -> list[Path]:
    """Return test images of a run, at most `MAX_FILES`; none if they can't be found any more."""
    folder = stored.get("datamodule_hyper_parameters", {}).get("data_dir")
    if folder is None or not is_own_checkpoint(stored, checkpoint):
        return []
    root = Path(folder)
    try:
        samples = read_image_split(run_folder_of(checkpoint) / "split.csv", ["test"])[1]
        names = [sample.file for sample in samples if sample.split == "test"]
    except (OSError, ValueError):  # the run has none, or that of a table
        names = [f"test/{name}" for name in list_images(root / "test").images] if (root / "test").is_dir() else []
    chosen = np.random.default_rng(0).permutation(len(names))[:MAX_FILES]
    return [root / names[number] for number in chosen if (root / names[number]).is_file()]
