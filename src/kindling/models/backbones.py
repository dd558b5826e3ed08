"""Backbones for transfer learning: networks of torchvision and timm and models trained with Kindling, without head."""

import difflib
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kindling.models.backbone_network import Backbone
from kindling.models.loading import build_from_spec, is_model_spec, read_model_spec
from kindling.models.task import BaseTask
from kindling.models.timm_backbones import timm_backbone
from kindling.models.timm_networks import PREFIX, is_timm_name
from kindling.models.weights import check_weights_file, load_weights, read_file, read_torchvision
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.run import describe_missing_run

# Families of networks with a fixed input size, and the constructor argument that sets it.
SIZE_ARGUMENTS = {"vit": "image_size", "maxvit": "input_size"}
INCEPTION_NETWORKS = ("googlenet", "inception_v3")


def find_backbone(source: str, weights: str, input_shape: tuple[int, ...], image_size: int | None) -> Backbone:
    """Return the backbone that the options of a `TransferModel` name, with random weights until `load` is called.

    Args:
        source: Name of a network of torchvision, that of one of timm with its prefix, or a model trained with Kindling.
        weights: `DEFAULT`, `none`, a file, or the name of a set of weights of torchvision.
        input_shape: Shape of the images, (C, H, W).
        image_size: Input height and width; None for the default of the backbone.

    Raises:
        ImportError: If it is a network of timm, which is not installed.
        ValueError: If there is no such backbone, or it does not support the options.
    """
    if source.startswith(PREFIX):
        return timm_backbone(source, weights, input_shape, image_size)
    if source in torchvision_names():
        return torchvision_backbone(source, weights, input_shape, image_size)
    backbone = kindling_backbone(source)
    if image_size is not None:
        raise ValueError(f"image_size can't be chosen: {source} needs the size that it was trained on")
    if weights not in ("DEFAULT", "none"):
        raise ValueError(f"weights {weights} can't be chosen: {source} has its own; use none for random weights")
    return backbone


def remove_head(network: nn.Module) -> int:
    """Replace the last layer with `nn.Identity` and return the number of its input features."""
    name, head = [item for item in network.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d)][-1]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


@cache
def torchvision_names() -> list[str]:
    """Return the names of all classification networks of torchvision."""
    from torchvision import models  # takes 2 s to import

    return models.list_models(module=models)  # type: ignore[no-any-return]


def torchvision_backbone(name: str, weights: str, input_shape: tuple[int, ...], image_size: int | None) -> Backbone:
    """Return a torchvision network as a backbone; see `find_backbone`.

    `image_size` is by default that of the images, but at least the minimum of the network.

    Raises:
        ValueError: If the network does not support `image_size`.
    """
    from torchvision import models

    choices = models.get_model_weights(name)
    chosen = choices[weights] if weights in choices.__members__ else choices.DEFAULT
    min_size = chosen.meta["min_size"]
    size = tuple(map(max, input_shape[1:], min_size))
    options: dict[str, Any] = {}
    step = 1
    size_argument = SIZE_ARGUMENTS.get(name.split("_")[0])
    if size_argument:
        size, step = min_size, 224 if name.startswith("maxvit") else int(name.rsplit("_", 1)[1])  # patch size: vit_b_16
        min_size = (step, step)
    if image_size is not None:
        size = (image_size, image_size)
        if image_size < max(min_size) or image_size % step:
            multiple = f" and a multiple of {step}" if step > 1 else ""
            raise ValueError(f"image_size must be at least {max(min_size)}{multiple} for {name}, got {image_size}")
    if size_argument:
        options[size_argument] = size[0] if size_argument == "image_size" else size
    if name in INCEPTION_NETWORKS:
        # Their weights expect another normalization; `transform_input` converts from the usual one.
        options = {"aux_logits": False, "init_weights": weights == "none", "transform_input": weights != "none"}
    network = models.get_model(name, weights=None, **options)
    features = remove_head(network)
    preset = chosen.transforms()
    load = partial(load_torchvision_weights, name=name, weights=weights)
    return Backbone(name, network, features, 3, size, tuple(preset.mean), tuple(preset.std), load)


def load_torchvision_weights(network: nn.Module, name: str, weights: str) -> None:
    """Load weights into a torchvision network.

    Missing weights are reported only here: a checkpoint contains its own, so the file may have been deleted since.
    """
    from torchvision import models

    choices = models.get_model_weights(name)
    if weights in choices.__members__:
        path, content = read_torchvision(choices[weights])
    elif (path := Path(weights)).is_file():
        content = read_file(path)
    else:
        check_weights_file(weights)
        names = ", ".join(choices.__members__)
        raise ValueError(f"{name} has no weights {weights}: choose {names}, none, or a file")
    load_weights(network, content, path, name)


def kindling_backbone(source: str) -> Backbone:
    """Return a model trained with Kindling, given a run folder, a checkpoint or a model spec, as a backbone."""
    state: dict[str, Tensor] | None = None
    spec = source
    if not is_model_spec(source):
        try:
            path = find_checkpoint(source)
        except FileNotFoundError as error:
            if source in ("best", "last") or source.endswith(".ckpt") or Path(source).exists():  # a run without one
                raise
            if len(Path(source).parts) > 1:
                raise ValueError(f"backbone: {describe_missing_run(source)}") from error
            near = difflib.get_close_matches(source, torchvision_names(), n=1)
            near = [f"{PREFIX}{source}"] if is_timm_name(source) else near
            hint = f"did you mean {near[0]}?" if near else "give a torchvision network, a run folder or a checkpoint"
            raise ValueError(f"unknown backbone {source!r}: {hint}") from error
        spec, state = read_model_spec(path)
    model = build_from_spec(spec)
    if len(model.input_shape) != 3 or model.core is model or hasattr(model.core, "members"):  # an ensemble
        name = type(model).__name__
        raise ValueError(f"{source} can't be a backbone: {name} is not a single network for images (in self.network)")
    BaseTask.init_lazy_layers(model)  # not the override of TransferModel, which would load pretrained weights
    features, name = remove_head(model.network), type(model).__name__
    load = (
        partial(load_weights, content=state, source=path, name=name, prefix="network.")
        if state
        else raise_missing_weights
    )
    channels, *size = model.input_shape
    mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
    return Backbone(spec, model.network, features, channels, (size[0], size[1]), mean, std, load)


def raise_missing_weights(network: nn.Module) -> None:
    """Raise ValueError: the weights of this backbone are stored only in the checkpoint of the whole model."""
    raise ValueError("the weights of this backbone are stored in the checkpoint of the model: load the checkpoint")
