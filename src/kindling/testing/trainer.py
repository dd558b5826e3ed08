"""A Trainer for short runs without files."""

from typing import Any

from lightning.pytorch import Callback, Trainer

BATCHES = 4  # of each epoch: enough to stop within one
EPOCHS = 2


def small_trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """Return a Trainer for a few batches on the CPU."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "limit_train_batches": BATCHES,
        "limit_val_batches": 1,
        "limit_predict_batches": 1,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**defaults | options, callbacks=list(callbacks))
