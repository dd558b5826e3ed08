"""Checks that a table is the one that a checkpoint was trained on."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kindling.utils.text import join_names


def check_columns(path: str | Path, current: Collection[str], fitted: dict[str, Any]) -> None:
    """Raise ValueError if the columns differ from those seen in training, used or dropped."""
    learned = {*(column["name"] for column in fitted["columns"]), *fitted["left_out"]}
    changes = {"without": learned - {*current}, "with": {*current} - learned}
    if found := [f"{change} {join_names(sorted(names), 3)}" for change, names in changes.items() if names]:
        raise _changed(path, f"its columns are {' and '.join(found)}")


def digest_rows(inputs: Tensor, targets: Tensor, splits: NDArray[np.object_]) -> str:
    """Return a digest of encoded rows, their targets and the split of each row."""
    content = hashlib.sha256(inputs.numpy().data)
    content.update(targets.numpy().data)
    content.update(",".join(splits).encode())
    return content.hexdigest()


def check_digest(path: str | Path, digest: str, fitted: dict[str, Any], resumes: bool) -> None:
    """Store the digest of the rows if there is none yet; raise ValueError if it differs from that in training.

    Args:
        path: The table.
        digest: Result of `digest_rows`.
        fitted: The fitted state of the data module.
        resumes: Whether training resumes.
    """
    if fitted.setdefault("digest", digest) == digest:
        return
    if resumes:
        raise _changed(path, "its rows or its split changed")
    raise ValueError(
        f"{path} or its split changed since training, so the test split may contain training rows: set "
        "--data.test_path to unseen rows"
    )


def _changed(path: str | Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not the data that the checkpoint was trained on: {reason}; start a new run without --ckpt_path"
    )
