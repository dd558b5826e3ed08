"""Groups of images that their paths tell, such as a folder for each patient."""

import re
from collections.abc import Sequence

import numpy as np

from kindling.data.images.samples import Sample
from kindling.data.split_constraints import SplitConstraints, SplitValues
from kindling.utils.text import count_noun

FOLDER = "folder"
PATTERN = "a regular expression with the group in parentheses, such as '^([^_]+)_' for p7_01.jpg"


def groups_in_paths(samples: Sequence[Sample], pattern: str) -> SplitConstraints:
    """Return the groups of images that are in class folders.

    Args:
        samples: The images.
        pattern: A regular expression that is searched for in the path below the class folder; the text in its
            parentheses is the group. `folder` means the first folder in the path.

    Raises:
        ValueError: If it is no such pattern, or an image has no group.
    """
    option = f"--data.groups {pattern}"
    try:
        expression = re.compile("^([^/]+)/" if pattern == FOLDER else pattern)
    except re.error as error:
        raise ValueError(f"{option}: {error}: give {FOLDER}, or {PATTERN}") from error
    if not expression.groups:
        raise ValueError(f"{option}: without --data.labels, give {FOLDER}, or {PATTERN}")
    found = [expression.search(f"/{file}".partition(f"/{label}/")[2] or file) for file, label, _ in samples]
    names = [" ".join(filter(None, match.groups())) if match else "" for match in found]
    if absent := [sample.file for sample, name in zip(samples, names, strict=True) if not name]:
        others = f" ({count_noun(len(absent), 'such image', 'such images')})" if len(absent) > 1 else ""
        if pattern == FOLDER:
            raise ValueError(
                f"{option}: {absent[0]} has no folder below that of its class{others}: move it into one, or give "
                f"{PATTERN}"
            )
        raise ValueError(f"{option}: {absent[0]} does not match{others}: rename it, or change the pattern")
    texts, codes = np.unique(np.array(names, dtype=object), return_inverse=True)
    groups = SplitValues(option, option, codes, texts.tolist())
    return SplitConstraints(groups, noun="images", names=[sample.file for sample in samples])
