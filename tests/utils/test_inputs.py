import hashlib
import io
import struct
import zlib
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import ExifTags, Image, ImageOps
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode

from helpers import png_16
from kindling.utils.inputs import DECODING, decode_image, exif_orientation, fit_image


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a smooth image, which a shift by half a pixel hardly changes."""
    across, down = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 6, height))
    waves = [np.sin(across + phase) + np.cos(down - phase) for phase in (0, 1, 2)]
    return Image.fromarray((np.stack(waves, axis=2) * 60 + 128).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 16, 40), (3, 40, 16), (1, 24, 32), (1, 30, 7)])
@pytest.mark.parametrize("beside", [(0, 0), (0, 12), (12, 0), (0, 90)])
@pytest.mark.parametrize(("kind", "levels"), [("png", 1), ("jpeg", 2)])
def test_size_and_cut_agree_with_torchvision(
    shape: tuple[int, int, int], beside: tuple[int, int], kind: str, levels: int
) -> None:
    channels, *size = shape
    within = [side + more for side, more in zip(size, beside, strict=True)]  # an integer number of pixels is cropped
    data = encoded(scene(4 * within[1], 4 * within[0]), kind, quality=100, subsampling=0)
    image = Image.open(io.BytesIO(data)).convert("RGB" if channels == 3 else "L")
    theirs = F.center_crop(F.resize(image, within, InterpolationMode.BILINEAR, antialias=True), size)
    ours = decode_image(data, shape)
    assert (ours.shape, ours.dtype) == (shape, torch.uint8)
    assert (ours.float() - F.pil_to_tensor(theirs).float()).abs().max() <= levels


def detailed(width: int, height: int) -> Image.Image:
    """Return a random image with details of about 3 pixels, more than a photograph has."""
    noise = np.random.default_rng(2).integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def with_orientation(image: Image.Image, orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(3, 300, 20), (3, 20, 300), (3, 64, 64), (1, 100, 100)])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_turned_photograph_becomes_that_of_an_upright_one(
    kind: str, shape: tuple[int, int, int], orientation: int
) -> None:
    data = with_orientation(detailed(811, 603), orientation, kind, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    difference = (decode_image(data, shape).float() - fit_image(upright, shape).float()).abs()
    assert difference.mean() <= (3 if kind == "jpeg" else 0.2)  # 25 for another orientation
    assert difference.max() <= (20 if kind == "jpeg" else 1)


@pytest.mark.parametrize("width", [400, 401, 799, 1500, 2999])
def test_a_jpeg_decoded_at_reduced_size_hardly_differs(width: int) -> None:
    for pixels in load_sample_images().images:
        photo = Image.fromarray(pixels).resize((width, width * 2 // 3), Image.Resampling.BICUBIC)
        data = encoded(photo, "jpeg", quality=92)
        for side in (64, 96, 128, 224):
            ours = decode_image(data, (3, side, side)).float()
            full = fit_image(Image.open(io.BytesIO(data)).copy(), (3, side, side)).float()
            assert (ours - full).abs().mean() <= 0.5  # bilinear and bicubic differ by 1.5
            assert (ours - full).square().mean() <= 255**2 / 10**4.2  # 42 dB


def bomb() -> bytes:
    """Return a PNG whose header claims 30,000 x 30,000 pixels."""
    data = bytearray(encoded(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">II", 30000, 30000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty, not JPEG, PNG, WEBP, BMP, GIF$"),
        (b"no image", "it is text"),
        (b"BMW", "it is text"),
        (b"GIF89 \x01", "it is of an unknown format"),
        (encoded(scene(8, 8), "tiff"), "it is a TIFF"),
        (HEIC, "it is a HEIC"),
        (encoded(scene(50, 50))[:-900], "broken"),
        (encoded(scene(50, 50), "jpeg")[:-500], "broken"),
        (bomb(), "too large: 30,000 x 30,000 pixels, the limit is 178,956,970"),
        (encoded(scene(11, 10)), "too large: 11 x 10 pixels, the limit is 100;"),
    ],
)
def test_undecodable_images_are_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        decode_image(data, (3, 8, 8), max_pixels=100 if "limit is 100;" in words else None)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_large_photo_is_decoded_and_only_untrusted_ones_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow raises an error at twice as many
    monkeypatch.setattr("kindling.utils.inputs.MAX_PIXELS", 2000)
    photo = encoded(scene(160, 120), "jpeg")  # decoded at 1/8 of its size
    assert decode_image(photo, (3, 8, 8)).shape == (3, 8, 8)
    for data, most in ((photo, 1000), (encoded(scene(160, 120)), None)):
        with pytest.raises(ValueError, match=r"^this image is too large: 160 x 120 pixels, .*; resize it or save"):
            decode_image(data, (3, 8, 8), most)
    pixels = "(more pixels than Pillow decodes|160 x 120 pixels)"  # older Pillow has no limit for WebP
    with pytest.raises(ValueError, match=rf"^this image is too large: {pixels}, the limit"):
        decode_image(encoded(scene(160, 120), "webp"), (3, 8, 8))
    assert decode_image(encoded(scene(40, 30), "webp"), (3, 8, 8)).shape == (3, 8, 8)


def test_an_error_without_a_message_is_named_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kindling.utils.inputs.fit_image", Mock(side_effect=MemoryError))
    with pytest.raises(ValueError, match=r"^this image is broken: MemoryError$"):
        decode_image(encoded(scene(16, 12)), (3, 8, 8))


@pytest.mark.parametrize("levels", [None, [100, 4095]])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_images_are_scaled_without_losing_bits(channels: int, levels: list[int] | None) -> None:
    values = np.random.default_rng(channels).integers(0, 4200 if levels else 65536, (6, 7, channels))
    low, high = levels or (0, 65535)
    expected = np.clip((values[..., : 3 if channels > 2 else 1] - low) / (high - low), 0, 1) * 255
    if channels in (2, 4):
        alpha = values[..., -1:] / 65535
        expected = expected * alpha + 255 * (1 - alpha)
    ours = decode_image(png_16(values), (3, 6, 7), levels=levels).permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() <= (0.5001 if channels % 2 else 2)


def test_an_image_of_as_many_pixels_as_allowed_is_decoded() -> None:
    assert decode_image(encoded(scene(10, 10)), (3, 8, 8), max_pixels=100).shape == (3, 8, 8)


def test_gray_is_the_brightness_of_the_colors_and_colors_of_gray_are_equal() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8))
    assert fit_image(image, (1, 1, 3)).flatten().tolist() == [76, 150, 29]  # Rec. 601
    assert fit_image(image.convert("L"), (3, 1, 3)).tolist() == [[[76, 150, 29]]] * 3


def test_other_pixels_than_before_need_another_version_of_decoding() -> None:
    """If pixels change, raise `DECODING`, or caches mix both; a new Pillow may change the hash alone."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(150))
    colors = np.stack([columns, rows, columns * rows % 256, 255 - rows], axis=2).astype(np.uint8)
    gray = (columns * rows).astype(np.uint16)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    digest = hashlib.sha256(f"{DECODING}".encode())
    for kind, pixels in (("PNG", colors), ("PNG", gray), ("JPEG", colors[..., :3]), ("BMP", colors[..., 0])):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **{"exif": turned, "quality": 95} if kind == "JPEG" else {})
        for shape in ((3, 7, 7), (1, 16, 20), (3, 30, 30)):
            digest.update(decode_image(file.getvalue(), shape).numpy().tobytes())
    assert digest.hexdigest()[:16] == "40c6ba440ab470f3"


@pytest.mark.parametrize("orientation", [0, 9, 2**32 - 1])
def test_an_invalid_orientation_is_upright(orientation: int) -> None:
    image = Image.new("RGB", (4, 4))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    assert exif_orientation(image) == 1
