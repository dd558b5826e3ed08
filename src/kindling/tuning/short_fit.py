"""A short training on a copy: model, random numbers and disk are afterwards what they were before."""

import copy
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from kindling.models.task import BaseTask

# Options of the Trainer of a run that hold for a trial too.
TRAINER_KEYS = ("accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")


def clone_model(model: BaseTask) -> BaseTask:
    """A copy without schedule and warm-up, and without a backbone that is unfrozen on the way.

    Raises:
        ValueError: If nothing of the model can be trained.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has nothing to train")
    model.init_lazy_layers()
    clone_model = copy.deepcopy(model)
    clone_model.hparams["lr_scheduler"] = None
    clone_model.warmup_epochs = 0.0
    if hasattr(clone_model, "unfreeze_epoch") and clone_model.waits:
        clone_model.unfreeze_epoch = None  # type: ignore[assignment]  # the epochs of a trial are others
    return clone_model


def short_fit(
    model: BaseTask,
    data: LightningDataModule | DataLoader[Any],
    steps: int,
    callbacks: list[Callback],
    **options: Any,
) -> Trainer:
    """Trains a model for so many steps at most, without validation, logs or files.

    Args:
        model: The model, a `twin` of another.
        data: A data module, or what gives the batches of an epoch.
        steps: Optimizer steps.
        callbacks: What watches or stops it.
        **options: Arguments for the Trainer.
    """
    trainer = Trainer(
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    with isolate_rng():
        trainer.fit(model, data)
    return trainer
