"""Limits of the number of batches: rounds fractions up to at least one batch, and checks the validation interval."""

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


class BatchLimits(Callback):
    """Rounds a positive fraction of the batches (`--trainer.overfit_batches 0.01`) up to at least one batch.

    An epoch with fewer training batches than `val_check_interval` is an error.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for limit, loader in LIMITS[stage].items():
            value = getattr(trainer, limit)
            is_fraction = isinstance(value, float) and 0 < value < 1
            if is_fraction and value * _num_batches(trainer, pl_module, loader) < 1:
                setattr(trainer, limit, 1)
        interval: Any = trainer.val_check_interval
        is_within_epoch = stage == "fit" and trainer.check_val_every_n_epoch is not None
        if is_within_epoch and isinstance(interval, int) and interval > 1:
            batches, most = _num_batches(trainer, pl_module, "train_dataloader"), trainer.limit_train_batches or 1.0
            batches = min(batches, most) if isinstance(most, int) else batches * most
            if interval > batches:
                raise ValueError(
                    f"--trainer.val_check_interval {interval} is more than the {int(batches)} training batches of an "
                    "epoch: lower it, or add --trainer.check_val_every_n_epoch null to count the batches of all epochs"
                )


def _num_batches(trainer: Trainer, model: LightningModule, loader: str) -> float:
    """Return the number of batches of the shortest data loader; infinity if no length is known."""
    owners = [trainer.datamodule, model]  # type: ignore[attr-defined]
    source = next((owner for owner in owners if owner and is_overridden(loader, owner)), None)
    loaders = tree_leaves(getattr(source, loader)()) if source else []
    return min((sized_len(each) or math.inf for each in loaders), default=math.inf)
