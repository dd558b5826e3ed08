"""Old names of methods of `BaseDataModule`, which keep working for one version, with a note."""

import logging
from collections.abc import Mapping
from inspect import getattr_static
from typing import Any

logger = logging.getLogger(__name__)

RENAMED = {
    "begin_with": "restore_fitted",
    "combine": "combine_fitted",
    "describe": "sample_details",
    "load_new": "load_predict",
}


def link_renamed_methods(cls: type) -> None:
    """Let the old and the new name of each method mean the one that the class defines or inherits first."""
    for old, new in RENAMED.items():
        own: Mapping[str, Any] = next((vars(base) for base in cls.__mro__ if {old, new} & vars(base).keys()), {})
        if new not in own and old in own:
            logger.warning(f"note: the method {old} of {cls.__name__} has been renamed to {new}")
        if method := own.get(new, own.get(old)):
            for name in (old, new):
                if getattr_static(cls, name, None) is not method:  # a copy would hide other bases
                    setattr(cls, name, method)
