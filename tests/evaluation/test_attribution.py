"""Heat maps: equal to integrated gradients, and on the part of the image that decides the class."""

from typing import Any

import pytest
import torch
from lightning import seed_everything
from torch import Tensor, nn
from torch.nn import functional as F

from kindling import CNNClassifier, TransferClassifier
from kindling.evaluation.attribution import STEPS, attribution_maps, integrated_gradients
from kindling.models.task import BaseTask

SIDE, PATCH = 48, 16
COLORS = torch.tensor([[1.0, 0.2, 0.1], [0.1, 0.9, 0.2], [0.2, 0.3, 1.0]])
SHAPE: dict[str, Any] = {"num_classes": 3, "input_shape": (3, SIDE, SIDE), "mean": (0.3,) * 3, "std": (0.2,) * 3}


def build(name: str) -> BaseTask:
    if name == "cnn":
        return CNNClassifier(channels=(16, 32), hidden=64, **SHAPE)
    return TransferClassifier(backbone=name, weights="none", **SHAPE)


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


@pytest.mark.parametrize("name", ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18",))])
def test_the_map_lies_on_the_patch_that_decides_the_class(name: str) -> None:
    seed_everything(0, verbose=False)
    model = build(name)
    train(model, *patches(512, 0)[:2], {"cnn": 5, "resnet18": 6}[name])
    images, labels, masks = patches(64, 1)
    predicted = model.eval()(images).argmax(1)
    assert (predicted == labels).float().mean() > 0.9
    weights = F.one_hot(predicted, 3) - F.one_hot((predicted + 1) % 3, 3)
    found = attribution_maps(model, images, [weights])
    assert found is not None
    heat = found[0].clamp(min=0)
    chance = PATCH**2 / SIDE**2  # 0.11
    assert ((heat * masks).sum((1, 2)) / heat.sum((1, 2))).mean() > 3.5 * chance
    assert masks.flatten(1).gather(1, heat.flatten(1).argmax(1, keepdim=True)).mean() > 0.9


def test_integrated_gradients_add_up_to_the_change_of_the_score() -> None:
    """By its axiom of completeness; and equal to the definition, with a plain loop over images and steps."""
    seed_everything(0, verbose=False)
    model, (images, labels, _) = build("cnn").eval(), patches(4, 0)
    train(model, images, labels, 3)
    model.eval()
    weights = F.one_hot(labels, 3).float()
    (found,) = integrated_gradients(model, images, [weights]) or []
    start = images.mean((2, 3), keepdim=True).expand_as(images)
    change = ((model(images) - model(start)) * weights).sum(1)
    torch.testing.assert_close(found.sum((1, 2, 3)), change, rtol=0.25, atol=0.05)
    for image, base, weight, each in zip(images, start, weights, found, strict=True):
        total = torch.zeros_like(image)
        for step in range(STEPS):
            point = (base + (step + 0.5) / STEPS * (image - base)).detach().requires_grad_()
            (model(point[None]) @ weight).sum().backward()
            assert point.grad is not None
            total += point.grad / STEPS
        torch.testing.assert_close(each, (image - base) * total, rtol=1e-3, atol=1e-5)


def test_a_frozen_network_has_maps_and_one_without_gradients_none() -> None:
    model, (images, labels, _) = build("cnn"), patches(3, 0)
    model.requires_grad_(False)
    weights = [F.one_hot(labels, 3)]
    assert attribution_maps(model, images, weights) is not None

    class Rounded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)).detach()

    model.network = Rounded()
    assert attribution_maps(model, images, weights) is None
