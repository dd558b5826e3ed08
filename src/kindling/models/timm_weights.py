"""Loads weights into networks of timm: from the Hugging Face hub, its cache, or a file."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from kindling.models.timm_networks import create_network
from kindling.models.weight_order import convert_by_order
from kindling.models.weights import check_weights_file, load_weights, raise_failed_download
from kindling.utils.console import progress

FILES = ("model.safetensors", "pytorch_model.bin")  # names of weights on the hub, in order of preference, by default


def load_timm_weights(network: nn.Module, name: str, weights: str, size: tuple[int, int]) -> None:
    """Load weights (`DEFAULT`, or a file) into a network of timm without its head; its name includes the tag.

    Raises:
        ValueError: If there are no such weights, or they belong to another network.
        OSError: If the file is missing, or the weights can't be downloaded.
    """
    import timm

    if weights != "DEFAULT":
        check_weights_file(weights)
        path = Path(weights)
        if not path.is_file():
            raise ValueError(
                f"{name} has no weights {weights}: choose a file, DEFAULT or none; a tag is part of the name, such as "
                f"timm:{name}"
            )
    else:
        path = find_weights(name)
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)  # not the default of each version
    except Exception as error:  # another kind of file may cause any exception
        raise ValueError(f"{path} is damaged, or contains no weights that can be read without running code") from error
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f"{path} contains no weights: it is not a dictionary of tensors")
    if any(key not in state or state[key].shape != value.shape for key, value in network.state_dict().items()):
        with torch.random.fork_rng(devices=[]):  # creates networks
            state = convert(name, state, path, size)
    load_weights(network, state, path, name)


def find_weights(name: str) -> Path:
    """Return the file with the weights of a network, after downloading it if it is not in the cache."""
    import timm

    config = timm.models.get_pretrained_cfg(name)
    if not (config.hf_hub_id or config.url):
        raise ValueError(f"timm has no weights of {name}: use --model.weights FILE, or none for random weights")
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    if config.hf_hub_id:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else FILES
        url = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{files[0]}"
        path = checkpoints / f"{name}{Path(files[0]).suffix}"
    else:
        url, path = config.url, checkpoints / Path(urlparse(config.url).path).name
    if path.exists():
        return path
    try:
        with progress(f"downloading the weights of {name}"):
            if config.hf_hub_id:
                return download_from_hub(config.hf_hub_id, files)
            checkpoints.mkdir(parents=True, exist_ok=True)
            checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
            torch.hub.download_url_to_file(url, str(path), checksum and checksum[1], progress=False)
            return path
    except Exception as error:  # of the network, the hub or the disk
        raise_failed_download(url, path, error)


def download_from_hub(repository: str, files: Sequence[str]) -> Path:
    """Return weights in a repository (owner and name, with or without `@` and a revision) on the hub.

    They come from its cache, even if the hub has newer ones, or are downloaded. The first existing file is used.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    name, _, revision = repository.partition("@")
    branch = revision or None
    for file in files:
        with suppress(EntryNotFoundError):
            return Path(hf_hub_download(name, file, revision=branch, local_files_only=True))
    for file in files:
        with suppress(EntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(name, file, revision=branch))  # fails at once, not after five attempts
            return Path(hf_hub_download(name, file, revision=branch))
    raise FileNotFoundError(f"{repository} has none of {', '.join(files)}")


def convert(name: str, state: dict[str, Tensor], path: Path, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return weights with the names and shapes that a network of timm expects; raise ValueError if that fails.

    timm renames weights of original publications and interpolates position embeddings. Other names are matched by
    order, see `convert_by_order`.
    """
    import timm

    config = timm.models.get_pretrained_cfg(name)
    heads = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    found = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
    reasons = []
    for classes in dict.fromkeys([*found, config.num_classes, 0]):  # the head may be for other classes, or missing
        create = partial(create_network, name, size, num_classes=classes)
        overlay = {"num_classes": classes, "label_offset": 0, "custom_load": False}
        try:
            network, marked = (
                create(pretrained=True, pretrained_cfg_overlay={**overlay, "state_dict": values})
                for values in (state, {key: fill_with_nan(value) for key, value in state.items()})
            )
        except Exception as error:  # each network converts with its own code
            reasons.append(str(error).splitlines()[-1].strip() if str(error) else type(error).__name__)
            continue
        # timm does not require all weights of each network. Those that were not loaded are not NaN.
        missing = [
            key for key, value in marked.state_dict().items() if value.is_floating_point() and not value.isnan().any()
        ]
        if not missing:
            return network.state_dict()
        reasons.append(f"{missing[0]} is missing")
    inputs = (config.input_size[1:], config.mean, config.std)
    if matched := convert_by_order(state, create_network(name), path, name, inputs):
        return convert(name, matched, path, size)  # interpolates position embeddings
    raise ValueError(f"{path} contains no weights of {name}: {reasons[0]}")


def fill_with_nan(value: Tensor) -> Tensor:
    """Return a tensor of NaN; integers are returned unchanged."""
    return torch.full_like(value, torch.nan) if value.is_floating_point() else value
