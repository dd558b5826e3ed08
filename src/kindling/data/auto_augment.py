"""TrivialAugment and RandAugment of whole batches on their device: each image draws its own operations.

The operations and their amounts are those of torchvision's TrivialAugmentWide and RandAugment.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kindling.utils.tensors import rgb_to_grayscale

AutoAugment = Literal["ta_wide", "ra"]

# The largest amount of each operation: that of TrivialAugment, and that of RandAugment. Translations are in pixels, and
# in fractions of the side; rotations in degrees; posterize removes bits.
AMOUNTS: dict[str, tuple[float, float]] = {
    "identity": (0, 0),
    "shear_x": (0.99, 0.3),
    "shear_y": (0.99, 0.3),
    "translate_x": (32, 150 / 331),
    "translate_y": (32, 150 / 331),
    "rotate": (135, 30),
    "brightness": (0.99, 0.9),
    "color": (0.99, 0.9),
    "contrast": (0.99, 0.9),
    "sharpness": (0.99, 0.9),
    "posterize": (6, 4),
    "solarize": (1, 1),
    "auto_contrast": (0, 0),
    "equalize": (0, 0),
}
OPERATIONS = tuple(AMOUNTS)
STEPS = 30  # of amounts, from 0 to the largest
RAND_AUGMENT = (2, 9)  # operations for each image, and their step


def auto_augment(images: Tensor, policy: AutoAugment) -> Tensor:
    """Return images (N, C, H, W), floats in [0, 1], each changed by one random operation, or two with RandAugment."""
    for _ in range(RAND_AUGMENT[0] if policy == "ra" else 1):
        # Drawn on the CPU: a GPU would have to wait to tell which images get an operation.
        chosen = torch.randint(len(OPERATIONS), (len(images),))
        steps = torch.randint(STEPS + 1, (len(images),)) if policy == "ta_wide" else torch.tensor(RAND_AUGMENT[1])
        largest = torch.tensor([amounts[policy == "ra"] for amounts in AMOUNTS.values()])
        if policy == "ra":
            largest[OPERATIONS.index("translate_x")] *= images.shape[3]
            largest[OPERATIONS.index("translate_y")] *= images.shape[2]
        amounts = largest[chosen] * steps / STEPS
        signs = 2 * torch.randint(2, (len(images),)) - 1
        images = apply_operations(images, chosen, amounts, signs)
    return images


def apply_operations(images: Tensor, chosen: Tensor, amounts: Tensor, signs: Tensor) -> Tensor:
    """Change each image by its own operation.

    Args:
        images: Floats in [0, 1], shape (N, C, H, W).
        chosen: Index of the operation in `OPERATIONS` of each image, shape (N,), on the CPU.
        amounts: Amount of the operation, shape (N,), on the CPU.
        signs: 1 or -1, the direction of operations that have one, shape (N,), on the CPU.
    """
    changed = images.clone()
    for number in set(chosen.tolist()):
        rows = (chosen == number).nonzero().squeeze(1)
        one = torch.stack([amounts[rows], amounts[rows] * signs[rows]]).to(images.device, non_blocking=True)
        index = rows.to(images.device, non_blocking=True)
        changed[index] = _operate(images[index], OPERATIONS[number], *one.to(images.dtype))
    return changed


def _operate(images: Tensor, operation: str, amount: Tensor, signed: Tensor) -> Tensor:
    """Change images (n, C, H, W) by one operation with amounts (n,)."""
    factor, amount = (1 + signed).view(-1, 1, 1, 1), amount.view(-1, 1, 1, 1)
    match operation:
        case "identity":
            return images
        case "brightness":
            return (images * factor).clamp(0, 1)
        case "color":
            return blend(gray(images), images, factor)
        case "contrast":
            return blend(gray(images).mean((2, 3), keepdim=True), images, factor)
        case "sharpness":
            return blend(_blur(images), images, factor)
        case "posterize":
            levels = (8 - amount.round()).exp2()
            return ((images * levels).floor() / levels).clamp(max=1 - 1 / levels)
        case "solarize":
            return torch.where(images >= 1 - amount, 1 - images, images)
        case "auto_contrast" | "equalize":
            from torchvision.transforms.v2 import functional  # takes 2 s to import

            stretch = functional.autocontrast if operation == "auto_contrast" else functional.equalize
            stretched: Tensor = stretch(images)
            return stretched
    return _warp(images, operation, signed)


def _warp(images: Tensor, operation: str, amount: Tensor) -> Tensor:
    """Shear, translate or rotate images; what comes from outside is black."""
    height, width = images.shape[-2:]
    to_source = torch.eye(2, 3, dtype=images.dtype, device=images.device).repeat(len(images), 1, 1)
    row, side, other = (0, width, height) if operation.endswith("x") else (1, height, width)
    if operation.startswith("shear"):  # about the corner at the top left
        to_source[:, row, 1 - row] = to_source[:, row, 2] = amount * other / side
    elif operation.startswith("translate"):
        to_source[:, row, 2] = -2 * amount.trunc() / side
    else:
        cos, sin = amount.deg2rad().cos(), amount.deg2rad().sin()
        to_source[:, 0, 0] = to_source[:, 1, 1] = cos
        to_source[:, 0, 1], to_source[:, 1, 0] = -sin * height / width, sin * width / height
    grid = F.affine_grid(to_source, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def blend(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Return other + factor * (images - other), in [0, 1]."""
    return torch.lerp(other.expand_as(images), images, factor.expand_as(images)).clamp(0, 1)


def gray(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) in grayscale, (N, 1, H, W) if they are RGB."""
    return rgb_to_grayscale(images) if images.shape[1] == 3 else images


def _blur(images: Tensor) -> Tensor:
    """Smooth images, except for the pixels at the edges."""
    if min(images.shape[-2:]) < 3:
        return images
    kernel = torch.ones(3, 3, dtype=images.dtype, device=images.device)
    kernel[1, 1] = 5
    channels = images.shape[1]
    blurred = images.clone()
    weights = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    blurred[..., 1:-1, 1:-1] = F.conv2d(images, weights, groups=channels)
    return blurred
