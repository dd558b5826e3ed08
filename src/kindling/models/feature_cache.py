"""Caches the features of a frozen backbone, so that they are computed once and not in each epoch."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from kindling.utils.console import progress

logger = logging.getLogger(__name__)

MAX_STREAMED = 100_000  # images on a disk whose features are kept in memory, at most 0.8 GB of them


class FeatureCache:
    """Replaces the images of the training and validation datasets with their features, and restores them."""

    def __init__(self) -> None:
        self._images: list[tuple[Any, Any]] = []

    def install(self, trainer: Trainer, compute: Callable[[Any], Tensor], epochs: float, permanent: bool) -> None:
        """Replace images with features if that saves time and every epoch would compute the same features.

        Args:
            trainer: The Trainer; nothing happens unless its data module is one of Kindling's.
            compute: Returns the features (n, features) of a batch.
            epochs: Number of epochs for which the features are used.
            permanent: Whether the images are not needed afterwards.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders: dict[Any, int | float] = {trainer.train_dataloader: trainer.num_training_batches}
        if trainer.val_dataloaders is not None:
            loaders[trainer.val_dataloaders] = sum(trainer.num_val_batches)
        limited = any(batches != len(loader) for loader, batches in loaders.items())
        # Worker processes would not notice that the images are restored.
        stale = not permanent and any(loader.num_workers for loader in loaders)
        if getattr(data, "augments", True) or epochs < 2 or limited or stale:
            return
        if not all(hasattr(loader.dataset, "inputs") for loader in loaders):  # samples are read one by one
            return
        images = sum(len(loader.dataset) for loader in loaders)
        if images > MAX_STREAMED and any(hasattr(loader.dataset, "stored") for loader in loaders):
            return
        logger.info(f"computing the features of {images:,} images once (--model.cache_features)")
        for loader in loaders:
            with progress(f"computing the features of {len(loader.dataset):,} images"):
                features = compute_features(loader, compute, data.eval_batch_size)
            self._images.append((loader.dataset, loader.dataset.inputs))
            loader.dataset.inputs = features

    def remove(self) -> None:
        """Restore the images."""
        while self._images:
            dataset, images = self._images.pop()
            dataset.inputs = images


@torch.no_grad()
def compute_features(loader: DataLoader[Any], compute: Callable[[Any], Tensor], batch_size: int) -> Tensor:
    """Return the features (N, features) of all images of a loader, in the order of its dataset."""
    in_order: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_size=batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        generator=torch.Generator(),  # leaves the random state of the training unchanged
    )
    return torch.cat([compute(batch) for batch in in_order])
