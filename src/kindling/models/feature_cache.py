"""Features in place of images: what a frozen backbone says of an image need not be computed in each epoch."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from kindling.utils.console import progress

logger = logging.getLogger(__name__)


class FeatureCache:
    """Puts features into the datasets of a training, and the images back."""

    def __init__(self) -> None:
        self._images: list[tuple[Any, Any]] = []

    def put(self, trainer: Trainer, compute: Callable[[Any], Tensor], epochs: float, for_good: bool) -> None:
        """Puts features in place of the images, where that saves time and each epoch would compute the same ones.

        Args:
            trainer: Its data module is one of Kindling's, else nothing happens.
            compute: Takes a batch and gives the features (n, features) of its images.
            epochs: For how many epochs they are needed.
            for_good: Whether the images are not needed after that.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders: dict[Any, int | float] = {trainer.train_dataloader: trainer.num_training_batches}
        if trainer.val_dataloaders is not None:
            loaders[trainer.val_dataloaders] = sum(trainer.num_val_batches)
        limited = any(batches != len(loader) for loader, batches in loaders.items())
        # Worker processes would go on with the features once the images are needed again.
        stuck = not for_good and any(loader.num_workers for loader in loaders)
        if getattr(data, "augments", True) or epochs < 2 or limited or stuck:
            return
        if not all(hasattr(loader.dataset, "inputs") for loader in loaders):  # samples that are read one by one
            return
        images = sum(len(loader.dataset) for loader in loaders)
        logger.info(f"the features of {images:,} images are computed once: --model.cache_features")
        for loader in loaders:
            with progress(f"computing the features of {len(loader.dataset):,} images"):
                features = features_of(loader, compute, data.eval_batch_size)
            self._images.append((loader.dataset, loader.dataset.inputs))
            loader.dataset.inputs = features

    def remove(self) -> None:
        """Puts the images back."""
        while self._images:
            dataset, images = self._images.pop()
            dataset.inputs = images


@torch.no_grad()
def features_of(loader: DataLoader[Any], compute: Callable[[Any], Tensor], batch_size: int) -> Tensor:
    """The features of all images of a loader in the order of its dataset, (N, features)."""
    in_order: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_size=batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        generator=torch.Generator(),  # the random numbers of the training stay where they are
    )
    return torch.cat([compute(batch) for batch in in_order])
