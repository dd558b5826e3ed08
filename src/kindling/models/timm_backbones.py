"""Backbones from timm (PyTorch Image Models)."""

from functools import partial

import torch
from torch import Tensor, nn

from kindling.models.backbone_network import Backbone
from kindling.models.timm_networks import PREFIX, create_network, timm_names
from kindling.models.timm_weights import load_timm_weights
from kindling.utils.optional import require_extra
from kindling.utils.text import suggest


def timm_backbone(source: str, weights: str, input_shape: tuple[int, ...], image_size: int | None) -> Backbone:
    """Return a timm network, named with or without the tag of its weights, as a backbone; see `find_backbone`.

    `image_size` is by default that of the weights. With random weights, it is by default that of the images, unless the
    network has a fixed size.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If there is no such network, it gives no pooled features, or it does not support such images.
    """
    require_extra("timm", "timm")
    import timm

    name = source.removeprefix(PREFIX)
    if name not in timm_names():
        raise ValueError(f"timm has no network {name}{suggest(name, timm_names(), PREFIX)}")
    config = timm.models.get_pretrained_cfg(name)
    channels, *size = config.input_size
    if image_size is not None:
        size = [image_size] * 2
    elif weights == "none" and not config.fixed_input_size:
        size = [*input_shape[1:]]
    height, width = size
    try:
        network = create_network(name, (height, width), num_classes=0)
        features = count_features(network, channels, (height, width))
    except Exception as error:  # each network checks the size in its own way
        reason = str(error).partition("\n")[0] or type(error).__name__
        message = f"{source} does not take images of {height} x {width} pixels: choose another --model.image_size"
        raise ValueError(f"{message} ({reason})") from error
    if not features:
        raise ValueError(f"{source} can't be a backbone: it gives no pooled features")
    tagged = f"{config.architecture}.{config.tag}" if config.tag else name
    return Backbone(
        PREFIX + tagged,
        network,
        features,
        channels,
        (height, width),
        config.mean,
        config.std,
        partial(load_timm_weights, name=tagged, weights=weights, size=(height, width)),
        "bilinear" if config.interpolation == "bilinear" else "bicubic",
        height if height == width else None,
    )


@torch.no_grad()
def count_features(network: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Return the number of features per image of a network without its head; 0 if they are not pooled."""
    features = network.eval()(torch.zeros(1, channels, *size))
    network.train()
    return features.shape[1] if isinstance(features, Tensor) and features.ndim == 2 else 0
