"""A backbone, and the network that it becomes part of: an adapter of the images, the backbone and a head."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from kindling.utils.tensors import rgb_to_grayscale


@dataclass(frozen=True)
class Backbone:
    """A network without its classification head, and the inputs that it expects.

    Attributes:
        config: Name of a torchvision network, that of a timm network with its prefix and tag, or a model spec (see
            `read_model_spec`), to build it again.
        network: Maps normalized images (N, channels, *size) to features (N, features).
        features: Number of features per image.
        channels: Number of input channels.
        size: Height and width of the input.
        mean: Mean per channel of the inputs that it was trained on.
        std: Standard deviation per channel of the inputs that it was trained on.
        load: Loads the trained weights into the network or a copy of it.
        interpolation: How images are resized to `size`.
        image_size: Value of the model's `image_size` to build it again; None if it is not needed.
    """

    config: str
    network: nn.Module
    features: int
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load: Callable[[nn.Module], None]
    interpolation: str = "bilinear"
    image_size: int | None = None

    def describe_inputs(self, shape: tuple[int, ...]) -> str:
        """Return a line with the size and the normalization of images (C, H, W) for the pretrained weights."""
        height, width = self.size
        resized = f"resized to {height} x {width} pixels ({self.interpolation}) and " * (shape[1:] != self.size)
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        normalized = f"normalized with mean {mean} and standard deviation {std}, as its weights expect"
        return f"{self.config}: images are {resized}{normalized}"


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
            precise = images.float() if images.dtype.itemsize == 2 else images  # torch can't resize 16 bits on a CPU
            resized = F.interpolate(precise, self.size, mode=self.interpolation, antialias=True)
            images = resized.to(images.dtype)
        return images  # (N, channels, *size)


class BackboneNetwork(nn.Sequential):
    """Adapter, backbone and head in sequence; takes images (N, C, H, W), or cached inputs of the head (N, features)."""

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim > 2:
            return super().forward(inputs)  # type: ignore[no-any-return, no-untyped-call]
        outputs: Tensor = self.get_submodule("head")(inputs)
        return outputs
