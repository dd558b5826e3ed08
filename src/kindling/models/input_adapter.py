"""Converts images to the channels and size that a backbone expects."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from kindling.utils.inputs import rgb_to_grayscale


class InputAdapter(nn.Module):
    """Convert images (N, C, H, W) to the number of channels and the size that a backbone expects.

    Args:
        channels: 1 or 3. Grayscale images are repeated; RGB images are converted to grayscale.
        size: Height and width.
        interpolation: `bilinear` or `bicubic`.
    """

    def __init__(self, channels: int, size: tuple[int, int], interpolation: str = "bilinear") -> None:
        super().__init__()
        self.channels, self.size, self.interpolation = channels, size, interpolation

    @override
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 3 and self.channels == 1:
            images = rgb_to_grayscale(images)
        images = images.expand(-1, self.channels, -1, -1)
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode=self.interpolation, antialias=True)
        return images  # (N, channels, *size)
