"""Saves and restores the random state of each process."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed
from typing_extensions import override


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


class SeedByRank(Callback):
    """Gives each process of a distributed run its own random numbers, for dropout and augmentation.

    Without it they are the same in all processes. The first process keeps those of a run with one process.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if rank := trainer.global_rank:
            seed = (torch.initial_seed() + 0x9E3779B97F4A7C15 * (rank + (trainer.global_step << 20))) % 2**64
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  (the state of the global generator)
