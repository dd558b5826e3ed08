"""Matches weights whose names are unknown with a network by their order, and checks the result on photographs."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"  # of batch norm: missing in files of torch before 0.4.1, and not used
CLASSES = 1000  # of ImageNet
# Photographs that come with scikit-learn, and their classes in ImageNet's usual order: palace and daisy.
PHOTOGRAPHS = {"china.jpg": 698, "flower.jpg": 985}


def match_by_order(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return weights under the names that a network expects if they match its own one by one, in order; else None.

    Each must have the same shape, kind of number and role (the last part of the name, such as `running_mean`) as its
    counterpart, and those of one layer in the file must belong to one layer of the network. Both have a head.
    """
    counters = {key: value for key, value in expected.items() if key.endswith(COUNTER)}
    if not any(key.endswith(COUNTER) for key in state):
        expected = {key: value for key, value in expected.items() if key not in counters}
    if len(state) != len(expected) or state.keys() == expected.keys():  # if the names are known, so is the order
        return None
    layers: dict[str, str] = {}
    for (key, value), (own_key, own_value) in zip(state.items(), expected.items(), strict=True):
        (layer, _, role), (own_layer, _, own_role) = key.rpartition("."), own_key.rpartition(".")
        is_same_kind = value.is_floating_point() == own_value.is_floating_point()
        if (value.shape, role) != (own_value.shape, own_role) or not is_same_kind:
            return None
        if layers.setdefault(layer, own_layer) != own_layer:
            return None
    if len({*layers.values()}) != len(layers):
        return None
    return counters | dict(zip(expected, state.values(), strict=True))


@torch.no_grad()
def recognizes_photographs(
    network: nn.Module, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> bool:
    """Return whether a classifier of ImageNet has the right class of each photograph among its first five.

    With random weights, the chance is 1 in 40,000. Two neighboring blocks in the wrong order, which add little to what
    the network has computed before, may remain unnoticed.
    """
    from sklearn.datasets import load_sample_image

    for name, label in PHOTOGRAPHS.items():
        image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255  # (1, 3, 427, 640)
        side = min(image.shape[2:])
        left = (image.shape[3] - side) // 2
        square = F.interpolate(image[..., left : left + side], size, mode="bicubic", antialias=True)
        channel = (1, -1, 1, 1)
        logits = network.eval()((square - torch.tensor(mean).view(channel)) / torch.tensor(std).view(channel))
        if label not in logits[0].topk(5).indices:
            return False
    return True


def convert_by_order(
    state: dict[str, Tensor],
    network: nn.Module,
    path: Path,
    name: str,
    inputs: tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]],
) -> dict[str, Tensor] | None:
    """Return weights of a file under the names that a network expects; None if their order differs.

    Args:
        state: The weights.
        network: The network with its classification head; receives the weights.
        path: The file.
        name: Name of the network.
        inputs: Size, mean and standard deviation of its images.

    Raises:
        ValueError: If they match, but do not recognize photographs, or are of a network for other classes.
    """
    matched = match_by_order(state, network.state_dict())
    if matched is None:
        return None
    found = f"{path} has other names of weights than {name}: "
    if network.num_classes != CLASSES:
        raise ValueError(
            f"{found}their order and shapes match, but only a network with the {CLASSES:,} classes of ImageNet can be "
            f"checked on photographs, and this one has {network.num_classes:,}; use a file with the names of timm"
        )
    network.load_state_dict(matched)
    if not recognizes_photographs(network, *inputs):
        raise ValueError(
            f"{found}their order and shapes match, but with them the network does not recognize the palace and the "
            "daisy on scikit-learn's photographs, so they can't be trusted"
        )
    logger.info(
        f"{found}all {len(state)} match in order and shape, and with them the network recognizes the palace and the "
        "daisy on scikit-learn's photographs, so they are plausible; neighboring blocks of equal shapes in the wrong "
        "order may remain unnoticed"
    )
    return matched
