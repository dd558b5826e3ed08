"""Trained weights: out of files, into networks without their last layer."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # "norm.1." is named "norm1." since


def read_torchvision(weights: Any) -> tuple[Path, Any]:
    """Reads weights out of torch's cache, where they are put when they are downloaded.

    Returns:
        The place, and what it holds.

    Raises:
        ValueError: If they are damaged.
        OSError: If they are not there and can't be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return path, weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the unpickler
        if path.exists():
            raise ValueError(f"{path} is damaged, or no {weights}: delete it to download it again") from error
        raise OSError(
            f"the download of {weights.url} failed: put it into {path.parent}, or give --model.weights FILE, or none "
            "for random weights"
        ) from error


def read_file(path: Path) -> Any:
    """Reads what a file of weights holds.

    Raises:
        ValueError: If it is a file of another kind.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of another kind makes of the unpickler
        raise ValueError(f"{path} holds no weights that torch.load(weights_only=True) can read") from error


def load_weights(network: nn.Module, held: Any, source: Path, name: str, prefix: str = "module.") -> None:
    """Loads what a file holds into a network; what else it holds, another last layer say, is left aside.

    Args:
        network: The network, all of whose weights must be there.
        held: A state dict, or a dictionary around one.
        source: The file.
        name: What the network is called.
        prefix: What may stand before the names of the weights.

    Raises:
        ValueError: If these are no weights, or those of another network.
    """
    from torchvision.models import VisionTransformer
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = cleaned(held, source, prefix)
    try:
        if isinstance(network, VisionTransformer):  # made for one size of image
            interpolate_embeddings(network.image_size, network.patch_size, state)
        missing = network.load_state_dict(state, strict=False).missing_keys
    except Exception as error:  # modules bring old state dicts up to date by code of their own
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{source} holds no weights of {name}: {reason}") from error
    if missing:
        raise ValueError(f"{source} holds no weights of {name}: {missing[0]} is missing")


def cleaned(held: Any, source: Path, prefix: str) -> "OrderedDict[str, Tensor]":
    """The state dict in what a file holds, its names as they are today and its versions kept."""
    for key in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not (isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values())):
        raise ValueError(f"{source} holds no weights: it is no dictionary of tensors")
    state = OrderedDict((DENSENET.sub(r"\1\2", str(key).removeprefix(prefix)), value) for key, value in held.items())
    versions = getattr(held, "_metadata", {})
    state._metadata = {key.removeprefix(prefix): version for key, version in versions.items()}  # type: ignore[attr-defined]
    return state
