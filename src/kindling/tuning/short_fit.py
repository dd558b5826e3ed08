"""A short fit of a cloned model without side effects: no files, and the random state is restored."""

import copy
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from kindling.models.task import BaseTask
from kindling.utils.console import progress

# Trainer options of the run that also apply to a short fit.
TRAINER_KEYS = ("accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")


def clone_model(model: BaseTask) -> BaseTask:
    """Return a copy of a model without schedule and warm-up; a frozen backbone stays frozen.

    Raises:
        ValueError: If the model has nothing to train.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has nothing to train")
    model.init_lazy_layers()
    clone = copy.deepcopy(model)
    clone.training_options["lr_scheduler"] = None
    clone.warmup_epochs = 0.0
    if getattr(clone, "will_unfreeze", False):
        clone.unfreeze_epoch = None  # type: ignore[assignment]  # epochs of a short fit are not those of the run
    return clone


def short_fit(
    model: BaseTask,
    data: LightningDataModule | DataLoader[Any],
    steps: int,
    callbacks: list[Callback],
    description: str,
    **options: Any,
) -> Trainer:
    """Train a model for up to a number of steps, without validation, logs or files, and return the Trainer.

    The progress bar shows the description. Other options are those of the Trainer.
    """
    batches = steps * (options.get("accumulate_grad_batches") or 1)
    with progress(description, batches) as advance, isolate_rng():
        trainer = Trainer(
            max_epochs=-1,
            max_steps=steps,
            limit_val_batches=0,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, LambdaCallback(on_train_batch_end=lambda *_: advance(1))],
            **options,
        )
        trainer.fit(model, data)
    return trainer
