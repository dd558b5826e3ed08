"""Networks of timm (PyTorch Image Models)."""

from functools import cache
from importlib.util import find_spec
from typing import Any

from torch import nn

PREFIX = "timm:"


@cache
def timm_names() -> list[str]:
    """Return the names of all networks of timm, and those with a tag for each set of weights."""
    import timm  # takes 3 s to import

    return sorted({*timm.list_models(), *timm.list_models(include_tags=True)})


def is_timm_name(name: str) -> bool:
    """Return whether a name, without its prefix, is a network of timm; False if timm is not installed."""
    return find_spec("timm") is not None and name in timm_names()


def create_network(name: str, size: tuple[int, int] | None = None, **options: Any) -> nn.Module:
    """Return a network of timm for images of a height and width, by default those that its weights expect."""
    import timm

    if size and timm.models.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = size
    network: nn.Module = timm.create_model(name, **options)
    return network
