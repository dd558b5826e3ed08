"""Training batches that several processes share: whether batch norm can, and whether this process has samples."""

from lightning.pytorch import Trainer
from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def trained_batch_norms(model: nn.Module) -> list[str]:
    """Return the names of batch norm layers that are trained; permanently frozen ones are in evaluation mode."""
    later = getattr(model, "will_unfreeze", False)
    named = model.named_modules()
    return [name for name, module in named if isinstance(module, BATCH_NORMS) and (module.training or later)]


def synchronizes_batch_norm(trainer: Trainer) -> bool:
    """Return whether batch norm has the statistics of all processes (`--trainer.sync_batchnorm true`)."""
    return getattr(trainer.strategy, "_layer_sync", None) is not None


def has_samples(trainer: Trainer | None) -> bool:
    """Return whether the current training batch has samples of this process, and not a copy that counts nothing."""
    share = getattr(getattr(trainer, "train_dataloader", None), "share", None)
    return share is None or share.own > 0


def all_have_samples(trainer: Trainer) -> bool:
    """Return whether the current training batch has samples of every process."""
    share = getattr(trainer.train_dataloader, "share", None)
    return share is None or share.total >= trainer.world_size
