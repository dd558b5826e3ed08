import math

import pytest
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine as torchvision_affine

from kindling.data.augment import Augmentation, affine, jitter_color, random_affine, random_color, random_flip
from kindling.data.mnist import read_sample


@pytest.fixture
def images() -> torch.Tensor:
    """Return eight digits, padded to be wider than high."""
    digits = read_sample("test")[0][::125].float() / 255
    return torch.nn.functional.pad(digits, (10, 10, 0, 0))  # (8, 1, 28, 48)


@pytest.mark.parametrize(
    ("degrees", "zoom", "right", "down"),
    [(0, 1, 0, 0), (90, 1, 0, 0), (15, 1, 0, 0), (0, 1.2, 0, 0), (0, 0.8, 0, 0), (0, 1, 5, -3), (20, 1.1, 4, 2)],
)
def test_agrees_with_torchvision(images: torch.Tensor, degrees: float, zoom: float, right: int, down: int) -> None:
    n, _, height, width = images.shape
    ours = affine(
        images,
        torch.full((n,), math.radians(degrees)),
        torch.full((n,), zoom),
        torch.full((n,), right / width),
        torch.full((n,), down / height),
    )
    theirs = torchvision_affine(images, -degrees, [right, down], zoom, [0.0], InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_each_image_is_moved_independently_within_the_range() -> None:
    dot = torch.zeros(500, 1, 21, 21)
    dot[:, :, 10, 10] = 1
    moved = random_affine(dot, shift=0.2)
    at = torch.arange(21.0) - 10
    right, down = (moved.sum(2) * at).sum(-1).squeeze(), (moved.sum(3) * at).sum(-1).squeeze()
    for shift in (right, down):
        assert shift.abs().max() <= 0.2 * 21 + 1e-3
        assert shift.std() == pytest.approx(0.2 * 21 / math.sqrt(3), rel=0.1)  # of a uniform distribution
    assert abs(torch.corrcoef(torch.stack([right, down]))[0, 1]) < 0.15


def test_without_augmentation_images_are_unchanged(images: torch.Tensor) -> None:
    assert random_affine(images) is images


def test_a_crop_keeps_its_share_at_any_place_within_the_image() -> None:
    size = 64
    right, down = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="xy")
    places = torch.stack([right, down]).expand(800, 2, size, size)  # each pixel says where it was
    cropped = random_affine(places, crop=0.4)
    middle = slice(size // 4, 3 * size // 4)  # half of each side, away from what the edges repeat
    inner = cropped[:, :, middle, middle]
    sides = 2 * (inner.amax((2, 3)) - inner.amin((2, 3))) * 32 / 31
    torch.testing.assert_close(sides[:, 0], sides[:, 1], atol=0.02, rtol=0)
    areas = sides.prod(1)
    assert areas.min() == pytest.approx(0.4, abs=0.03)
    assert areas.max() == pytest.approx(1, abs=0.03)
    assert areas.mean() == pytest.approx(0.7, abs=0.03)  # of a uniform distribution
    centers = inner.mean((2, 3)) - (size - 1) / (2 * size)
    free = (1 - sides) / 2
    assert (centers.abs() - free).max() < 0.02
    assert (centers / free)[areas < 0.8].std() == pytest.approx(1 / math.sqrt(3), rel=0.1)
    assert abs(torch.corrcoef(centers.T)[0, 1]) < 0.15


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(1000, 3, 4, 5)
    flipped = random_flip(images)
    mirrored = F.horizontal_flip(images)
    same = (flipped == images).flatten(1).all(1)
    assert torch.equal(flipped[~same], mirrored[~same])
    assert 430 < same.sum() < 570


@pytest.mark.parametrize(
    "factors", [(1, 1, 1), (0.6, 1, 1), (1.7, 1, 1), (1, 0.4, 1), (1, 1.8, 1), (1, 1, 0), (1, 1, 2)]
)
def test_colors_change_as_torchvision_changes_them(factors: tuple[float, float, float]) -> None:
    images = torch.rand(5, 3, 9, 7)
    theirs = F.adjust_brightness(images, factors[0])
    theirs = F.adjust_saturation(F.adjust_contrast(theirs, factors[1]), factors[2])
    ours = jitter_color(images, *(torch.full((5,), float(factor)) for factor in factors))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_colors_of_each_image_are_changed_independently() -> None:
    images = torch.full((500, 3, 4, 4), 0.4)  # gray: brightness alone changes it
    factors = random_color(images, 0.3)[:, 0, 0, 0] / 0.4
    assert factors.min() == pytest.approx(0.7, abs=0.02)
    assert factors.max() == pytest.approx(1.3, abs=0.02)
    assert factors.std() == pytest.approx(0.3 / math.sqrt(3), rel=0.1)
    assert random_color(images, 0.0) is images


def test_a_ratio_without_a_crop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--data\.ratio 1\.3 has no effect without a crop: set --data\.crop"):
        Augmentation(ratio=1.3)
    assert Augmentation(crop=0.9, ratio=1.3)
