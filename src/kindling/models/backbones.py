"""Networks to start from: those of torchvision, and those that were trained here, without their last layer."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kindling.models.loading import build_from_spec, is_model_spec, read_model_spec
from kindling.models.task import BaseTask
from kindling.models.weights import load_weights, read_file, read_torchvision
from kindling.runs.find import find_checkpoint

FIXED_SIZE = {"vit": "image_size", "maxvit": "input_size"}  # families of one size, and the argument that names it
INCEPTIONS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer, and what it takes.

    Attributes:
        config: What it can be built from again: its name, or the description of a model, see `read_model`.
        network: Takes normalised images (N, channels, *size) and gives (N, features).
        features: Values that it gives for an image.
        channels: Channels that it takes.
        size: Height and width that it takes.
        mean: Mean of the inputs of its training by channel.
        std: Standard deviation of the inputs of its training by channel.
        load: Loads its trained weights into it, or into a copy of it.
    """

    config: str
    network: nn.Module
    features: int
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load: Callable[[nn.Module], None]


def remove_head(network: nn.Module) -> int:
    """Puts nothing in place of the last layer, which gives the logits; returns the number of features that it took."""
    name, head = [item for item in network.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d)][-1]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


@cache
def torchvision_names() -> list[str]:
    """All classification networks of torchvision."""
    from torchvision import models  # takes 2 s to import

    return models.list_models(module=models)  # type: ignore[no-any-return]


def torchvision_backbone(
    name: str, weights: str, input_shape: tuple[int, ...], image_size: int | None = None
) -> Backbone:
    """A network of torchvision.

    Args:
        name: Its name.
        weights: `DEFAULT`, the name of a set of weights, a file, or `none`.
        input_shape: Shape of the images, (C, H, W).
        image_size: Height and width to work on; by default those of the images, but no less than the network needs.

    Raises:
        ValueError: If it can't take images of that size.
    """
    from torchvision import models

    choices = models.get_model_weights(name)
    chosen = choices[weights] if weights in choices.__members__ else choices.DEFAULT
    least = chosen.meta["min_size"]
    size = tuple(map(max, input_shape[1:], least))
    options: dict[str, Any] = {}
    step = 1
    if family := FIXED_SIZE.get(name.split("_")[0]):
        size, step = least, patch_size(name)
        least = (step, step)
    if image_size is not None:
        size = (image_size, image_size)
        if image_size < max(least) or image_size % step:
            multiple = f" and a multiple of {step}" if step > 1 else ""
            raise ValueError(f"image_size must be at least {max(least)}{multiple} for {name}, not {image_size}")
    if family:
        options[family] = size[0] if family == "image_size" else size
    if name in INCEPTIONS:
        # Their weights were trained on another normalisation, to which they turn the usual one by themselves.
        options = {"aux_logits": False, "init_weights": weights == "none", "transform_input": weights != "none"}
    network = models.get_model(name, weights=None, **options)
    features = remove_head(network)
    preset = chosen.transforms()
    load = partial(load_named, name=name, weights=weights)
    return Backbone(name, network, features, 3, size, tuple(preset.mean), tuple(preset.std), load)


def load_named(network: nn.Module, name: str, weights: str) -> None:
    """Loads weights into the network of torchvision of that name.

    Only now it is said that there are none: a checkpoint brings its own, and the file may be gone since.
    """
    from torchvision import models

    choices = models.get_model_weights(name)
    if weights in choices.__members__:
        path, held = read_torchvision(choices[weights])
    elif (path := Path(weights)).is_file():
        held = read_file(path)
    else:
        names = ", ".join(choices.__members__)
        raise ValueError(f"{name} has no weights {weights}: there are {names}, none, or a file of yours")
    load_weights(network, held, path, name)


def patch_size(name: str) -> int:
    """What the size of the images must be a multiple of, of the families that take one size."""
    return 224 if name.startswith("maxvit") else int(name.rsplit("_", 1)[1])  # vit_b_16


def kindling_backbone(where: str) -> Backbone:
    """A network that was trained here.

    Args:
        where: Run folder, checkpoint, `best` or `last`; or the description of a model.

    Raises:
        ValueError: If there is none, or it is no network for images.
    """
    state: dict[str, Tensor] | None = None
    text = where
    if not is_model_spec(where):
        try:
            path = find_checkpoint(where)
        except FileNotFoundError as error:
            near = difflib.get_close_matches(where, torchvision_names(), n=1)
            hint = f"did you mean {near[0]}?" if near else "name a network of torchvision, a run folder or a checkpoint"
            raise ValueError(f"there is no backbone {where}: {hint}") from error
        text, state = read_model_spec(path)
    model = build_from_spec(text)
    if len(model.input_shape) != 3 or hasattr(model.network, "members"):  # an ensemble
        raise ValueError(f"{where} is no network for images but a {type(model).__name__}")
    BaseTask.init_lazy_layers(model)  # lazy layers alone: what the backbone of a backbone started from is not needed
    features, name = remove_head(model.network), type(model).__name__
    load = (
        partial(load_weights, held=state, source=path, name=name, prefix="network.") if state else raise_missing_weights
    )
    channels, *size = model.input_shape
    mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
    return Backbone(text, model.network, features, channels, (size[0], size[1]), mean, std, load)


def raise_missing_weights(network: nn.Module) -> None:
    """In place of loading weights that only a checkpoint has."""
    raise ValueError("the weights of a backbone that was trained here come with the checkpoint: load it first")
