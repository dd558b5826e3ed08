"""Options of `fit` and the Trainer whose values need a check, or mean something else here than to Lightning."""

import os
import random
import unicodedata
from collections.abc import MutableMapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from kindling.errors import UsageError

LONGEST_NAME = 120  # bytes: file systems allow 255, and some names of files in the run hold the name of the run
# The Trainer's own barebones mode switches off `self.log` too, and so leaves no result.
BAREBONES = {
    "barebones": False,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 0,
}


def draw_seed() -> int:
    """Draw a seed, the same in all processes of a distributed training.

    Raises:
        UsageError: If this process was started by a launcher that does not pass the seed on.
    """
    if getattr(rank_zero_only, "rank", 0) == 0 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return random.SystemRandom().randrange(2**32)
    if "PL_GLOBAL_SEED" not in os.environ:
        raise UsageError("--seed_everything true would draw another seed in each process: give a number")
    return int(os.environ["PL_GLOBAL_SEED"])  # from the process that started this one


def check_seed(seed: int) -> None:
    """Raise UsageError unless NumPy and torch both take a seed."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed_everything must be from 0 to {2**32 - 1}, got {seed}")


def check_run_name(name: str) -> None:
    """Raise UsageError where a run of this name would lie outside of `runs/`, or could not be a folder there."""
    for folder in name.split("/"):
        reason = ""
        if folder in ("", ".", "..") or "\\" in folder:
            reason = "give the name of a folder inside runs/"
        elif folder != folder.strip():
            reason = "it begins or ends with a space"
        elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in folder):
            reason = "it contains a control character"
        elif len(folder.encode()) > LONGEST_NAME:
            reason = f"it is longer than {LONGEST_NAME} bytes"
        if reason:
            raise UsageError(f"--run_name {name[:40]!r}: {reason}")


def apply_barebones(trainer: MutableMapping[str, Any]) -> None:
    """Translate `--trainer.barebones true`: only train and test, without files, logs or a progress bar."""
    for name, value in BAREBONES.items():
        trainer[name] = value
