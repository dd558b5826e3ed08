"""Heat maps: equal to expected gradients, and on the part of the image that decides the class."""

from typing import Any

import pytest
import torch
from lightning import seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer

from kindling import CNNClassifier, TransferClassifier
from kindling.evaluation.attribution import attribution_maps, expected_gradients, shuffled_pixels
from kindling.models import ClassificationTask
from kindling.models.task import BaseTask

SIDE, PATCH = 48, 16
COLORS = torch.tensor([[1.0, 0.2, 0.1], [0.1, 0.9, 0.2], [0.2, 0.3, 1.0]])
NETWORKS = {
    "vit": lambda: VisionTransformer(SIDE, 8, 2, 4, 64, 128, num_classes=3),
    "swin": lambda: SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=3, stochastic_depth_prob=0.0),
}
SHAPE: dict[str, Any] = {"num_classes": 3, "input_shape": (3, SIDE, SIDE), "mean": (0.3,) * 3, "std": (0.2,) * 3}


class TransformerClassifier(ClassificationTask):
    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network: nn.Module = NETWORKS[name]()


def build(name: str) -> BaseTask:
    if name == "cnn":
        return CNNClassifier(channels=(16, 32), hidden=64, **SHAPE)
    if name == "resnet18":
        return TransferClassifier(backbone=name, weights="none", **SHAPE)
    return TransformerClassifier(name, **SHAPE)


def patches(number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images of noise with a patch whose color is the class, the classes, and where the patches are."""
    random = torch.Generator().manual_seed(seed)
    images = 0.6 * F.interpolate(torch.rand(number, 3, SIDE // 4, SIDE // 4, generator=random), scale_factor=4)
    labels = torch.randint(3, (number,), generator=random)
    masks = torch.zeros(number, SIDE, SIDE)
    for row, (top, left) in enumerate(torch.randint(SIDE - PATCH, (number, 2), generator=random).tolist()):
        images[row, :, top : top + PATCH, left : left + PATCH] = COLORS[labels[row], :, None, None]
        masks[row, top : top + PATCH, left : left + PATCH] = 1
    return images, labels, masks


def train(model: BaseTask, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 2e-3 if isinstance(model, CNNClassifier) else 1e-3)
    for _ in range(epochs):
        model.train()
        for rows in torch.split(torch.randperm(len(images)), 32):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@pytest.mark.parametrize(
    "name", ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "vit", "swin"))]
)
def test_the_map_lies_on_the_patch_that_decides_the_class(name: str) -> None:
    """Transformers mix the colors of all places, so that the mean color of an image tells its class as well."""
    seed_everything(0, verbose=False)
    model = build(name)
    train(model, *patches(256 if name == "cnn" else 512, 0)[:2], {"cnn": 6, "resnet18": 6}.get(name, 20))
    images, labels, masks = patches(64, 1)
    predicted = model.eval()(images).argmax(1)
    assert (predicted == labels).float().mean() > 0.9
    weights = F.one_hot(predicted, 3) - F.one_hot((predicted + 1) % 3, 3)
    found = attribution_maps(model, images, [weights], patches(16, 2)[0])
    assert found is not None
    heat = found[0].clamp(min=0)
    share = (heat * masks).sum((1, 2)) / heat.sum((1, 2))
    at_maximum = masks.flatten(1).gather(1, heat.flatten(1).argmax(1, keepdim=True))
    chance = PATCH**2 / SIDE**2  # 0.11
    assert share.mean() > (5 if name in ("cnn", "resnet18") else 3) * chance
    assert at_maximum.mean() > (0.9 if name in ("cnn", "resnet18") else 0.8)


def test_gradients_add_up_to_the_change_of_the_score() -> None:
    """By the axiom of completeness; and equal to the definition, with a plain loop over images and starts."""
    seed_everything(0, verbose=False)
    model, (images, labels, _) = build("cnn").eval(), patches(4, 0)
    train(model, images, labels, 3)
    model.eval()
    weights = F.one_hot(labels, 3).float()
    starts = [shuffled_pixels(patches(16, 2)[0], [seed]) for seed in range(8)]
    (found,) = expected_gradients(model, images, [weights], starts) or []
    change = torch.stack([((model(images) - model(start)) * weights).sum(1) for start in starts]).mean(0)
    torch.testing.assert_close(found.sum((1, 2, 3)), change, rtol=0.25, atol=0.05)
    for image, weight, each in zip(images, weights, found, strict=True):
        total = torch.zeros_like(image)
        for step, start in enumerate(starts):
            point = (start[0] + (step + 0.5) / 8 * (image - start[0])).detach().requires_grad_()
            (model(point[None]) @ weight).sum().backward()
            assert point.grad is not None
            total += (image - start[0]) * point.grad / 8
        torch.testing.assert_close(each, total, rtol=1e-3, atol=1e-5)


def test_shuffled_pixels_keep_the_channels_of_a_pixel_together() -> None:
    images = torch.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    drawn = shuffled_pixels(images, range(7))
    assert drawn.shape == (7, 3, 5, 4)
    known = {tuple(pixel.tolist()) for pixel in images.movedim(1, -1).reshape(-1, 3)}
    assert {tuple(pixel.tolist()) for pixel in drawn.movedim(1, -1).reshape(-1, 3)} <= known
    assert len({*drawn.flatten().tolist()}) > 60  # from both images


def test_the_map_of_an_image_does_not_depend_on_the_others() -> None:
    model, (images, labels, _) = build("cnn"), patches(9, 0)
    weights = F.one_hot(labels, 3)
    found, reverse, alone = (
        attribution_maps(model, images[rows], [weights[rows]], patches(16, 2)[0])
        for rows in (torch.arange(9), torch.arange(9).flip(0), torch.tensor([5]))
    )
    assert found is not None
    assert reverse is not None
    assert alone is not None
    torch.testing.assert_close(reverse[0].flip(0), found[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(alone[0], found[0][[5]], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_network_has_the_same_maps() -> None:
    model, plain = (CNNClassifier(channels=(4,), hidden=4, **SHAPE) for _ in range(2))
    images, labels, _ = patches(3, 0)
    weights = [F.one_hot(labels, 3), F.one_hot((labels + 1) % 3, 3)]
    model.core.compile(backend="aot_eager")
    model(images).sum().backward()
    plain.load_state_dict(model.state_dict())
    found, expected = (attribution_maps(each, images, weights, images) for each in (model, plain))
    assert found is not None
    assert expected is not None
    assert all(map(torch.equal, found, expected))


def test_a_frozen_network_has_maps_and_one_without_gradients_none() -> None:
    model, (images, labels, _) = build("cnn"), patches(3, 0)
    model.requires_grad_(False)
    weights = [F.one_hot(labels, 3)]
    assert attribution_maps(model, images, weights, images) is not None

    class Rounded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)).detach()

    model.network = Rounded()
    assert attribution_maps(model, images, weights, images) is None
