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

    Raises:
        ValueError: If an epoch has fewer training batches than `val_check_interval`.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for limit, loader in LIMITS[stage].items():
            value = getattr(trainer, limit)
            owners = [trainer.datamodule, pl_module]  # type: ignore[attr-defined]
            source = next((owner for owner in owners if owner and is_overridden(loader, owner)), None)
            is_fraction = isinstance(value, float) and 0 < value < 1
            if source and is_fraction and value * _num_batches(getattr(source, loader)()) < 1:
                setattr(trainer, limit, 1)
        if stage == "fit":
            _check_interval(trainer, pl_module)


def _check_interval(trainer: Trainer, model: LightningModule) -> None:
    """Raise ValueError if validation never comes: an epoch has fewer batches than `val_check_interval`."""
    interval, data = trainer.val_check_interval, trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(interval, int) or trainer.check_val_every_n_epoch is None or interval == 1:
        return
    source = data if data and is_overridden("train_dataloader", data) else model
    if not is_overridden("train_dataloader", source):
        return
    batches, limit = _num_batches(source.train_dataloader()), trainer.limit_train_batches or 1.0
    batches = min(batches, limit) if isinstance(limit, int) else batches * limit
    if interval > batches:
        raise ValueError(
            f"--trainer.val_check_interval {interval} is more than the {int(batches)} training batches of an epoch: "
            "lower it, or add --trainer.check_val_every_n_epoch null to count the batches of all epochs"
        )


def _num_batches(loaders: Any) -> float:
    """Return the number of batches of the shortest data loader; infinity if no length is known."""
    return min((sized_len(loader) or math.inf for loader in tree_leaves(loaders)), default=math.inf)
