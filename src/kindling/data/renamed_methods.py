"""Old names of methods of `BaseDataModule`, which keep working for one version, with a note."""

import logging

logger = logging.getLogger(__name__)

RENAMED = {
    "begin_with": "restore_fitted",
    "combine": "combine_fitted",
    "describe": "sample_details",
    "load_new": "load_predict",
}


def link_renamed_methods(cls: type) -> None:
    """Let the old and the new name of each method that a class defines mean the same."""
    for old, new in RENAMED.items():
        own = vars(cls)
        if old in own:
            logger.warning(f"note: the method {old} of {cls.__name__} has been renamed to {new}")
            setattr(cls, new, own[old])
        elif new in own:
            setattr(cls, old, own[new])
