import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from kindling.data.augment import random_affine, random_erasing
from kindling.data.auto_augment import OPERATIONS, apply_operations, auto_augment

BILINEAR = {"interpolation": InterpolationMode.BILINEAR}
PLAIN = {"scale": 1.0, **BILINEAR}


def shear(image: Tensor, amount: float, axis: int) -> Tensor:
    angles = [0.0, 0.0]
    angles[axis] = math.degrees(math.atan(amount))
    sheared: Tensor = F.affine(image, angle=0, translate=[0, 0], shear=angles, center=[0, 0], **PLAIN)
    return sheared


# As torchvision's TrivialAugmentWide applies them.
THEIRS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, amount: shear(image, amount, 0),
    "shear_y": lambda image, amount: shear(image, amount, 1),
    "translate_x": lambda image, amount: F.affine(image, angle=0, translate=[int(amount), 0], shear=[0, 0], **PLAIN),
    "translate_y": lambda image, amount: F.affine(image, angle=0, translate=[0, int(amount)], shear=[0, 0], **PLAIN),
    "rotate": lambda image, amount: F.rotate(image, amount, **BILINEAR),
    "brightness": lambda image, amount: F.adjust_brightness(image, 1 + amount),
    "color": lambda image, amount: F.adjust_saturation(image, 1 + amount),
    "contrast": lambda image, amount: F.adjust_contrast(image, 1 + amount),
    "sharpness": lambda image, amount: F.adjust_sharpness(image, 1 + amount),
    "posterize": lambda image, amount: F.posterize(image, 8 - round(abs(amount))),
    "solarize": lambda image, amount: F.solarize(image, 1 - abs(amount)),
    "auto_contrast": lambda image, _: F.autocontrast(image),
    "equalize": lambda image, _: F.equalize(image),
}
AMOUNTS = {"translate_x": (7.9, -3.2), "translate_y": (5.1, -9.7), "rotate": (40, -110), "posterize": (2, 6)}


@pytest.fixture
def pictures() -> Tensor:
    """Return smooth color images with values of a byte."""
    small = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(small, (24, 30), mode="bilinear")
    return (images * 255).round() / 255


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_that_of_torchvision(pictures: Tensor, operation: str) -> None:
    """Each image has its own amount, and images next to it another operation."""
    low, high = AMOUNTS.get(operation, (0.7, -0.4))
    amounts = torch.tensor([low, high, low, high, 0, low])
    chosen = torch.full((6,), OPERATIONS.index(operation))
    chosen[4] = 0
    ours = apply_operations(pictures, chosen, amounts.abs(), amounts.sign())
    theirs = [THEIRS[operation](image, float(amount)) for image, amount in zip(pictures, amounts, strict=True)]
    theirs[4] = pictures[4]
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-3, rtol=0)


@pytest.mark.parametrize("policy", ["ta_wide", "ra"])
def test_images_change_as_often_and_as_much_as_with_torchvision(policy: str) -> None:
    torch.manual_seed(0)
    number = 3000
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), (20, 20), mode="bicubic").clamp(0, 1)
    image = (image * 255).round() / 255
    transform = {"ta_wide": transforms.TrivialAugmentWide, "ra": transforms.RandAugment}[policy](**BILINEAR)
    ours = auto_augment(image.expand(number, 3, 20, 20), policy)  # type: ignore[arg-type]
    theirs = torch.stack([transform(image[0]) for _ in range(number)])
    distances = [(changed - image).abs().mean((1, 2, 3)) for changed in (ours, theirs)]
    unchanged = [(distance < 1e-3).float().mean() for distance in distances]
    assert abs(unchanged[0] - unchanged[1]) < 0.03
    shares = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(distances[0].quantile(shares), distances[1].quantile(shares), atol=0.02, rtol=0.1)


def test_gray_and_tiny_images_can_be_changed() -> None:
    for shape in ((40, 1, 9, 9), (40, 3, 2, 1)):
        changed = auto_augment(torch.rand(shape), "ta_wide")
        assert changed.shape == shape
        assert changed.isfinite().all()


def test_crops_have_the_sides_of_torchvisions_random_resized_crop() -> None:
    torch.manual_seed(0)
    size = 64
    right, down = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="xy")
    places = torch.stack([right, down])  # each pixel says where it was
    ours = random_affine(places.expand(3000, 2, size, size), crop=0.2, ratio=4 / 3)
    middle = slice(size // 4, 3 * size // 4)
    inner = ours[:, :, middle, middle]
    widths, heights = (2 * (inner.amax((2, 3)) - inner.amin((2, 3))) * 32 / 31).T
    draw = transforms.RandomResizedCrop(size, scale=(0.2, 1), ratio=(3 / 4, 4 / 3))
    drawn = [draw.make_params([places]) for _ in range(3000)]
    shares = torch.linspace(0.05, 0.95, 19)
    for mine, theirs in ((widths, "width"), (heights, "height")):
        expected = torch.tensor([each[theirs] / size for each in drawn])
        torch.testing.assert_close(mine.quantile(shares), expected.quantile(shares), atol=0.03, rtol=0)
    ratios = (widths / heights).log()
    expected = torch.tensor([each["width"] / each["height"] for each in drawn]).log()
    torch.testing.assert_close(ratios.quantile(shares), expected.quantile(shares), atol=0.05, rtol=0)


def test_boxes_are_erased_as_by_torchvision_and_filled_with_the_mean_color() -> None:
    torch.manual_seed(0)
    size, number = 40, 3000
    checks = (torch.arange(size).view(1, -1) + torch.arange(size).view(-1, 1)) % 2 * 0.8  # no pixel is the mean
    images = checks.expand(number, 3, size, size)
    ours = random_erasing(images, 0.6)
    erased = (ours - images).abs().amax(1) > 0.1  # (N, H, W)
    assert torch.allclose(ours[:, 0][erased], torch.tensor(0.4))
    is_erased = erased.flatten(1).any(1)
    assert is_erased.float().mean() == pytest.approx(0.6, abs=0.03)
    draw = transforms.RandomErasing(1.0, value=7.0)
    theirs = torch.stack([draw(image)[0] == 7 for image in images])
    shares = torch.linspace(0.05, 0.95, 19)
    for axis in (1, 2):
        for mine, other in (
            (erased[is_erased].any(axis).float().mean(1), theirs.any(axis).float().mean(1)),  # sides
            (erased[is_erased].any(axis).float().argmax(1) / size, theirs.any(axis).float().argmax(1) / size),  # places
        ):
            torch.testing.assert_close(mine.quantile(shares), other.quantile(shares), atol=0.04, rtol=0)
    assert torch.equal(ours[~is_erased], images[~is_erased])
    assert random_erasing(images, 0.0) is images
