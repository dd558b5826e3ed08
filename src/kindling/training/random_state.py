"""Saves and restores the random state of each process."""

import random
from typing import Any

import numpy as np
import torch
from torch import distributed


def random_state() -> dict[str, Any]:
    """Return the states of all global random generators of this process, as plain values."""
    kind, keys, *position = np.random.get_state()  # noqa: NPY002  (the state of the global generator)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *position],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore all global random generators of this process."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *position = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
    random.setstate(state["python"])


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all processes of a distributed run, by rank; every process must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states
