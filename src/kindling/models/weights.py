"""Reads pretrained weights from files and loads them into networks without a head."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # older files: "norm.1." instead of "norm1."
SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


def read_torchvision(weights: Any) -> tuple[Path, Any]:
    """Return the path and the contents of torchvision weights in torch's cache, after downloading them if needed.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it is missing and can't be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return path, weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may cause any exception
        if path.exists():
            raise ValueError(f"{path} is damaged, or not {weights}: delete it to download it again") from error
        raise_failed_download(weights.url, path, error)


def raise_failed_download(url: str, path: Path, error: Exception) -> NoReturn:
    """Raise OSError, with all ways out; the file at `url` would be found at `path`."""
    raise OSError(
        f"can't download {url}: save it as {path}, or use --model.weights FILE, --model.weights none or --config "
        "images_cnn"
    ) from error


def check_weights_file(weights: str) -> None:
    """Raise FileNotFoundError if weights are given as the path of a missing file, rather than by name."""
    path = Path(weights)
    if (path.suffix in SUFFIXES or len(path.parts) > 1) and not path.is_file():
        raise FileNotFoundError(f"there is no file {weights}")


def read_file(path: Path) -> Any:
    """Return the contents of a file of weights; raise ValueError if it is another kind of file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # another kind of file may cause any exception
        raise ValueError(f"{path} contains no weights that torch.load(weights_only=True) can read") from error


def load_weights(network: nn.Module, content: Any, source: Path, name: str, prefix: str = "module.") -> None:
    """Load the contents of a file into a network; additional weights, such as those of the head, are ignored.

    Args:
        network: The network; the file must contain all of its weights.
        content: A state dict, or a dictionary that contains one.
        source: Path of the file.
        name: Name of the network.
        prefix: Prefix to strip from the names of the weights.

    Raises:
        ValueError: If there are no weights, or those of another network.
    """
    from torchvision.models import VisionTransformer
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = extract_state_dict(content, source, prefix)
    try:
        if isinstance(network, VisionTransformer):  # has a fixed image size
            interpolate_embeddings(network.image_size, network.patch_size, state)
        missing = network.load_state_dict(state, strict=False).missing_keys
    except Exception as error:  # modules update old state dicts with their own code
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{source} contains no weights of {name}: {reason}") from error
    if missing:
        raise ValueError(f"{source} does not contain all weights of {name}: {missing[0]} is missing")


def extract_state_dict(content: Any, source: Path, prefix: str) -> "OrderedDict[str, Tensor]":
    """Return the state dict in the contents of a file, with current names and its module versions."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values())):
        raise ValueError(f"{source} contains no weights: it is not a dictionary of tensors")
    state = OrderedDict((DENSENET.sub(r"\1\2", str(key).removeprefix(prefix)), content[key]) for key in content)
    versions = getattr(content, "_metadata", {})
    state._metadata = {key.removeprefix(prefix): version for key, version in versions.items()}  # type: ignore[attr-defined]
    return state
