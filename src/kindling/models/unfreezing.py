"""Training in two phases: with a frozen backbone, then with all weights."""

import logging
import math
import sys
from typing import Any, Self

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from typing_extensions import override

from kindling.models.feature_cache import FeatureCache
from kindling.models.schedules import restart_schedule
from kindling.models.task import BaseTask

logger = logging.getLogger(__name__)


class PhasedModel(BaseTask):
    """Base of models whose backbone is frozen until an epoch; a subclass sets the attributes and `self.network`.

    Attributes:
        unfreeze_epoch: Epoch, counted from 0, from which the backbone is trained; None never.
        backbone_lr: Learning rate of the backbone relative to that of the head.
        cache_features: Whether to compute the features of a frozen backbone once per image.
        is_random: Whether the backbone has no pretrained weights, and so is never frozen.
        frozen: Whether the backbone is frozen now.
    """

    unfreeze_epoch: int | None
    backbone_lr: float
    cache_features: bool
    is_random: bool
    frozen = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._feature_cache = FeatureCache()

    @property
    def backbone(self) -> nn.Module:
        """The pretrained network without its head."""
        return self.network.get_submodule("backbone")

    @property
    def head(self) -> nn.Module:
        """The new linear layer."""
        return self.network.get_submodule("head")

    @property
    def will_unfreeze(self) -> bool:
        """Whether the backbone is frozen now and will be unfrozen later."""
        return self.frozen and self.unfreeze_epoch is not None

    def _freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()  # keeps the pretrained batch-norm statistics
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return the inputs of the head, (N, features), for raw images (N, C, H, W)."""
        raise NotImplementedError

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._feature_cache.remove()  # of an interrupted fit

    @override
    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "name": "head"}]
        if not self.frozen:
            backbone = {"params": list(self.backbone.parameters()), "name": "backbone", "lr_scale": self.backbone_lr}
            groups.append(backbone)
        return groups

    @override
    def schedule_steps(self, start: int) -> int:
        if not self.frozen:
            return super().schedule_steps(start)
        steps, _ = frozen_steps(self.trainer, self.unfreeze_epoch, start)
        return max(1, int(steps))  # 0 if it is unfrozen before the next step

    @override
    def on_train_start(self) -> None:
        if self.will_unfreeze and not has_whole_weights(self.trainer):
            raise ValueError(
                f"{type(self.trainer.strategy).__name__} can't unfreeze a backbone during training: use "
                "--trainer.strategy ddp, or --model.unfreeze_epoch 0 or null"
            )
        if self.frozen and self.cache_features and has_whole_weights(self.trainer):
            steps, steps_per_epoch = frozen_steps(self.trainer, self.unfreeze_epoch, self.global_step)
            permanent = not self.will_unfreeze
            self._feature_cache.install(self.trainer, self._compute_features, steps / steps_per_epoch, permanent)

    def _compute_features(self, batch: Any) -> Tensor:
        images = self.trainer.strategy.batch_to_device(batch)[0]
        with self.trainer.precision_plugin.forward_context():
            return self.features(images).to(batch[1].device)

    @override
    def on_train_epoch_start(self) -> None:
        if self.unfreeze_epoch is not None and self.frozen and self.current_epoch >= self.unfreeze_epoch:
            self._feature_cache.remove()
            self._freeze(False)
            self.schedule_start = self.global_step
            train_unfrozen(self.trainer)

    @override
    def on_validation_start(self) -> None:
        # Early stopping must not count validations before the backbone is trained.
        for stopper in self.trainer.early_stopping_callbacks:
            stopper.wait_count = -sys.maxsize if self.will_unfreeze else max(0, stopper.wait_count)

    @override
    def on_train_end(self) -> None:
        self._feature_cache.remove()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["frozen"] = self.frozen

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        due = self.unfreeze_epoch is not None and checkpoint["epoch"] >= self.unfreeze_epoch
        self._freeze(checkpoint["frozen"] and not due)
        is_fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        if not is_fitting or "optimizer_states" not in checkpoint:
            return
        changed = self.unfreeze_epoch != checkpoint["hyper_parameters"]["unfreeze_epoch"]
        if changed and not checkpoint["frozen"] and not self.is_random:
            logger.info(f"unfreeze_epoch {self.unfreeze_epoch} has no effect: the backbone is being trained already")
        if checkpoint["frozen"] and due:
            restart_schedule(self, checkpoint)
        for group in checkpoint["optimizer_states"][0]["param_groups"][1:]:
            group["lr_scale"] = self.backbone_lr


def has_whole_weights(trainer: Trainer | None) -> bool:
    """Return whether each process has all weights: sharded ones are gathered for a whole `forward` only."""
    return trainer is None or trainer.world_size == 1 or isinstance(trainer.strategy, DDPStrategy)


def frozen_steps(trainer: Trainer, unfreeze_epoch: int | None, start: int) -> tuple[float, int]:
    """Return the optimizer steps of the frozen phase after step `start`, and those of an epoch."""
    trainer.fit_loop.setup_data()  # sets `num_training_batches`
    steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    steps = trainer.estimated_stepping_batches
    if unfreeze_epoch is not None:
        steps = min(steps, unfreeze_epoch * steps_per_epoch)
    return steps - start, steps_per_epoch


def train_unfrozen(trainer: Trainer) -> None:
    """Train weights that were unfrozen after the start: with a new optimizer that keeps the momentum of the others."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        # DistributedDataParallel only averages gradients of weights that were trainable at its construction.
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()
    (before,) = trainer.optimizers
    strategy.setup_optimizers(trainer)
    trainer.optimizers[0].state.update(before.state)
