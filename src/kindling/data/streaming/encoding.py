"""How LitData encodes a sample: only parts and containers that are read without running code from the data."""

import json
import re
from collections.abc import Mapping
from typing import Any

from kindling.utils.optional import require_extra

# LitData also takes the serializer that follows a colon, so `bytes:pickle` would unpickle.
PARTS = re.compile(r"(no_header_)?(tensor|numpy)(:\d+)?|int|float|bool|str|bytes")
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")  # None is a part


def find_unsafe(encoding: Mapping[str, Any]) -> str | None:
    """Return the first part or container of a sample that could run code when it is read.

    Args:
        encoding: See `Manifest.encoding`.

    Raises:
        ValueError, KeyError, TypeError: If it is malformed.
    """
    _, nodes = json.loads(encoding["data_spec"])
    containers, left = [], [nodes]
    while left:
        node = left.pop()
        containers.append(node["type"])
        left += node["children_spec"]
    unsafe = [part for part in encoding["data_format"] if not PARTS.fullmatch(part)]
    return next(iter(unsafe + [each for each in containers if each not in CONTAINERS]), None)


def sample_loader(encoding: Mapping[str, Any]) -> Any:
    """Return the part of LitData that decodes samples with an encoding in which `find_unsafe` finds nothing."""
    require_extra("stream", "litdata")
    from litdata.streaming.item_loader import PyTreeLoader
    from litdata.streaming.serializers import _get_serializers
    from litdata.utilities._pytree import treespec_loads

    loader = PyTreeLoader()
    specification = treespec_loads(encoding["data_spec"])
    loader.setup({"data_format": encoding["data_format"], "data_spec": specification}, [], _get_serializers(None))
    return loader
