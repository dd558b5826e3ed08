"""Images that have several classes each."""

import torch

from kindling import BaseDataModule

COLORS = ("red", "green", "blue")


class ColorsDataModule(BaseDataModule):
    """Noise (N, 3, 8, 8) that is brighter in the channels of an image's classes; blue is rare."""

    task = "multilabel"
    input_shape = (3, 8, 8)
    num_classes, class_names = 3, COLORS

    def load(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(len(split))
        targets = (torch.rand(200, 3, generator=random) < torch.tensor([0.5, 0.4, 0.15])).float()
        noise = torch.rand(200, 3, 8, 8, generator=random) * 150
        return (noise + 60 * targets[..., None, None]).to(torch.uint8), targets


class UnnamedColorsDataModule(BaseDataModule):
    """The same without a task and classes."""

    def load(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        return ColorsDataModule().load(split)
