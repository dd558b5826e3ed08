"""Shares of the batches that would round down to none."""

import math
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_leaves
from typing_extensions import override

# The limits that a stage reads, each with the data loader that it limits.
LIMITS = {
    "fit": {"limit_train_batches": "train_dataloader", "limit_val_batches": "val_dataloader"},
    "validate": {"limit_val_batches": "val_dataloader"},
    "test": {"limit_test_batches": "test_dataloader"},
    "predict": {"limit_predict_batches": "predict_dataloader"},
}


class AtLeastOneBatch(Callback):
    """Makes a positive share of the batches, `--trainer.overfit_batches 0.01` for example, at least one batch."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for limit, loader in LIMITS[stage].items():
            share = getattr(trainer, limit)
            owners = [trainer.datamodule, pl_module]  # type: ignore[attr-defined]
            source = next((owner for owner in owners if owner and is_overridden(loader, owner)), None)
            is_share = isinstance(share, float) and 0 < share < 1
            if source and is_share and share * _batches(getattr(source, loader)()) < 1:
                setattr(trainer, limit, 1)


def _batches(loaders: Any) -> float:
    """Return the batches of the shortest of one or more data loaders; infinitely many where none tells."""
    return min((sized_len(loader) or math.inf for loader in tree_leaves(loaders)), default=math.inf)
