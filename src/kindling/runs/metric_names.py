"""Names of logged metrics, in the spellings that different authors use."""

import re

PREFIXES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
NAME = re.compile(rf"({'|'.join(PREFIXES)})[/_](.+?)(_epoch)?")


def split_of(name: str) -> tuple[str, str]:
    """Return the split of a logged metric, empty if it has none, and the name of the metric.

    Examples:
        >>> split_of("val/loss"), split_of("valid_loss"), split_of("train_loss_epoch"), split_of("lr")
        (('val', 'loss'), ('val', 'loss'), ('train', 'loss'), ('', 'lr'))
    """
    found = NAME.fullmatch(name)
    return (PREFIXES[found[1]], found[2]) if found else ("", name)


def standard_name(name: str) -> str:
    """Return the name that Kindling uses for a metric: `val/loss` for `valid_loss`."""
    return "/".join(filter(None, split_of(name)))
