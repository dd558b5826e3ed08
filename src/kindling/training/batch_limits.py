"""Rounds fractional batch limits up to at least one batch."""

import math
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from kindling.utils.trees import tree_leaves

# Batch limits by stage, each with the data loader that it applies to.
LIMITS = {
    "fit": {"limit_train_batches": "train_dataloader", "limit_val_batches": "val_dataloader"},
    "validate": {"limit_val_batches": "val_dataloader"},
    "test": {"limit_test_batches": "test_dataloader"},
    "predict": {"limit_predict_batches": "predict_dataloader"},
}


class AtLeastOneBatch(Callback):
    """Rounds a positive fraction of the batches (`--trainer.overfit_batches 0.01`) up to at least one batch."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for limit, loader in LIMITS[stage].items():
            value = getattr(trainer, limit)
            owners = [trainer.datamodule, pl_module]  # type: ignore[attr-defined]
            source = next((owner for owner in owners if owner and is_overridden(loader, owner)), None)
            is_fraction = isinstance(value, float) and 0 < value < 1
            if source and is_fraction and value * _num_batches(getattr(source, loader)()) < 1:
                setattr(trainer, limit, 1)


def _num_batches(loaders: Any) -> float:
    """Return the number of batches of the shortest data loader; infinity if no length is known."""
    return min((sized_len(loader) or math.inf for loader in tree_leaves(loaders)), default=math.inf)
