"""Networks to start from: those of torchvision, and those that were trained here, without their last layer."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kindling.models.classifier import Classifier
from kindling.models.ensemble import EnsembleClassifier
from kindling.models.trained import build_model, is_model, read_model
from kindling.runs import find_checkpoint

FIXED_SIZE = {"vit": "image_size", "maxvit": "input_size"}  # families of one size, and the argument that names it
INCEPTIONS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Source:
    """A network without its last layer, and what it takes.

    Attributes:
        config: What it can be built from again: its name, or the description of a model, see `read_model`.
        network: Takes normalised images (N, channels, *size) and gives (N, features).
        features: Values that it gives for an image.
        channels: Channels that it takes.
        size: Height and width that it takes.
        mean: Mean of the inputs of its training by channel.
        std: Standard deviation of the inputs of its training by channel.
        weights: Reads its trained weights.
    """

    config: str
    network: nn.Module
    features: int
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Callable[[], dict[str, Tensor]]


def behead(network: nn.Module) -> int:
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
) -> Source:
    """A network of torchvision.

    Args:
        name: Its name.
        weights: `DEFAULT`, the name of a set of weights, a file, or `none`.
        input_shape: Shape of the images, (C, H, W).
        image_size: Height and width to work on; by default those of the images, but no less than the network needs.

    Raises:
        ValueError: If there are no such weights.
    """
    from torchvision import models

    choices = models.get_model_weights(name)
    is_file = Path(weights).is_file()
    if weights not in ("none", *choices.__members__) and not is_file:
        names = ", ".join(choices.__members__)
        raise ValueError(f"{name} has no weights {weights}: there are {names}, none, or a file of yours")
    chosen = choices.DEFAULT if weights == "none" or is_file else choices[weights]
    least = chosen.meta["min_size"]
    size = (image_size, image_size) if image_size else tuple(map(max, input_shape[1:], least))
    options: dict[str, Any] = {}
    if family := FIXED_SIZE.get(name.split("_")[0]):
        size = (image_size, image_size) if image_size else least
        options[family] = size[0] if family == "image_size" else size
    if name in INCEPTIONS:
        # Their weights were trained on another normalisation, to which they turn the usual one by themselves.
        options = {"aux_logits": False, "init_weights": weights == "none", "transform_input": weights != "none"}
    network = models.get_model(name, weights=None, **options)
    features = behead(network)
    read = partial(read_file, Path(weights), name, network) if is_file else partial(read_torchvision, name, chosen)
    preset = chosen.transforms()
    return Source(name, network, features, 3, size, tuple(preset.mean), tuple(preset.std), read)


def read_torchvision(name: str, weights: Any) -> dict[str, Tensor]:
    """Weights out of torch's cache, where torchvision puts them when it downloads them.

    Raises:
        OSError: If they are not there and can't be downloaded.
    """
    from torchvision import models

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        network = models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:
        if path.exists():
            raise ValueError(f"{path} is damaged, or no {weights}: delete it to download it again") from error
        raise OSError(
            f"the weights {weights} are not there and the download failed: put {weights.url} at {path}, name another "
            "file with --model.weights, or start from random weights with --model.weights none"
        ) from error
    behead(network)
    state: dict[str, Tensor] = network.state_dict()
    return state


def read_file(path: Path, name: str, network: nn.Module) -> dict[str, Tensor]:
    """Weights of a file for a network without its last layer.

    Raises:
        ValueError: If it holds no weights, or those of another network.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of another kind makes of the unpickler
        raise ValueError(f"{path} holds no weights that torch.load(weights_only=True) can read") from error
    expected = network.state_dict()
    missing = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if missing:
        raise ValueError(f"{path} holds no weights of {name}: {missing[0]} is missing or of another shape")
    return {key: state[key] for key in expected}


def kindling_backbone(where: str) -> Source:
    """A network that was trained here.

    Args:
        where: Run folder, checkpoint, `best` or `last`; or the description of a model.

    Raises:
        ValueError: If there is none, or it is no network for images.
    """
    state: dict[str, Tensor] | None = None
    text = where
    if not is_model(where):
        try:
            path = find_checkpoint(where)
        except FileNotFoundError as error:
            near = difflib.get_close_matches(where, torchvision_names(), n=1)
            hint = f"did you mean {near[0]}?" if near else "name a network of torchvision, a run folder or a checkpoint"
            raise ValueError(f"there is no backbone {where}: {hint}") from error
        text, state = read_model(path)
    model = build_model(text)
    if len(model.input_shape) != 3 or isinstance(model, EnsembleClassifier):
        raise ValueError(f"{where} is no network for images but a {type(model).__name__}")
    Classifier.materialize(model)  # lazy layers alone: what the backbone of a backbone started from is not needed
    features = behead(model.network)

    def weights() -> dict[str, Tensor]:
        if state is None:
            raise ValueError(f"the weights of this {type(model).__name__} come with a checkpoint")
        return {key: state[f"network.{key}"] for key in model.network.state_dict()}

    channels, *size = model.input_shape
    mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
    return Source(text, model.network, features, channels, (size[0], size[1]), mean, std, weights)
