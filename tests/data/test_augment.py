import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine as torchvision_affine

from kindling.data.augment import affine, random_affine
from kindling.data.mnist import read_sample


@pytest.fixture
def images() -> torch.Tensor:
    """Eight digits, made wider than high."""
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


def test_each_sample_moves_by_itself_within_the_range() -> None:
    dot = torch.zeros(500, 1, 21, 21)
    dot[:, :, 10, 10] = 1
    moved = random_affine(dot, shift=0.2)
    at = torch.arange(21.0) - 10
    right, down = (moved.sum(2) * at).sum(-1).squeeze(), (moved.sum(3) * at).sum(-1).squeeze()
    for shift in (right, down):
        assert shift.abs().max() <= 0.2 * 21 + 1e-3
        assert shift.std() == pytest.approx(0.2 * 21 / math.sqrt(3), rel=0.1)  # of a uniform distribution
    assert abs(torch.corrcoef(torch.stack([right, down]))[0, 1]) < 0.15


def test_nothing_asked_nothing_changed(images: torch.Tensor) -> None:
    assert random_affine(images) is images
