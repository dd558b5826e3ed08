"""Transfer learning: a network that was trained on other images gets a new head."""

import logging
import math
import sys
from collections import OrderedDict
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from typing_extensions import override

from kindling.models.backbones import Backbone, kindling_backbone, torchvision_backbone, torchvision_names
from kindling.models.classification import ClassificationTask
from kindling.models.feature_cache import FeatureCache
from kindling.models.input_adapter import InputAdapter

logger = logging.getLogger(__name__)


class TransferClassifier(ClassificationTask):
    """A trained network, the backbone, with a new linear layer for the classes at hand.

    At first the backbone is frozen, its batch-norm statistics too, and the head alone is trained; then all of it, the
    backbone with a smaller learning rate. What is unfrozen stays so. Each of the two phases has a schedule of its own,
    warm-up included, from its own first step: a OneCycleLR over its own steps, a CosineAnnealingLR that starts again.
    Early stopping has its patience for the second phase.

    Args:
        backbone: A classification network of torchvision by name (resnet18, convnext_tiny, vit_b_16 ...), or one that
            was trained here: a run folder or a checkpoint.
        weights: What the backbone starts from: `DEFAULT` or a name of torchvision's (IMAGENET1K_V1), downloaded once;
            a file of them; `none` for random weights, all of which train from the start and alike. A network that was
            trained here brings its own.
        image_size: Height and width to which images are resized; by default they are resized only where the network
            needs it. A vision transformer needs a multiple of its patch, and its weights are interpolated.
        unfreeze_epoch: Epoch, counted from 0, from which the backbone is trained as well; 0 trains it from the start,
            null never.
        backbone_lr: Learning rate of the backbone as a share of the head's.
        cache_features: Whether a frozen backbone is asked once for each image and not in each epoch. It is asked in
            each where images are augmented, the Trainer limits the batches, fewer than two frozen epochs remain, or
            worker processes load images that are needed again once the backbone is unfrozen.
        **kwargs: See `ClassificationTask`.

    Raises:
        ValueError: If there is no such backbone, or it can't take such images.
    """

    frozen = False

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str = "DEFAULT",
        image_size: int | None = None,
        unfreeze_epoch: int | None = 1,
        backbone_lr: float = 0.1,
        cache_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            raise ValueError(
                f"TransferClassifier needs images (1 or 3 channels, height, width), not {self.input_shape}"
            )
        if unfreeze_epoch is not None and unfreeze_epoch < 0:
            raise ValueError(f"unfreeze_epoch must not be negative: {unfreeze_epoch}")
        if not backbone_lr >= 0:
            raise ValueError(f"backbone_lr must not be negative: {backbone_lr}")
        self.unfreeze_epoch = unfreeze_epoch
        self.random = weights == "none"
        self.backbone_lr = 1.0 if self.random else backbone_lr
        self.cache_features = cache_features
        self._cached = FeatureCache()
        self.source = self._source(backbone, weights, image_size)
        self.hparams["backbone"] = self.source.config  # a checkpoint needs nothing but itself
        # Loaded when they are first needed, unless a checkpoint brings others.
        self._weights_missing = not self.random
        self.register_load_state_dict_pre_hook(_note_weights)  # type: ignore[no-untyped-call]
        self.register_state_dict_pre_hook(_init_lazy_layers)  # type: ignore[no-untyped-call]
        parts = {
            "adapt": InputAdapter(self.source.channels, self.source.size),
            "backbone": self.source.network,
            "head": nn.Linear(self.source.features, self.num_classes),
        }
        self.network: nn.Sequential = nn.Sequential(OrderedDict(parts)).to(memory_format=torch.channels_last)
        if not self.random:  # inputs as the weights know them
            self.mean = torch.tensor(self.source.mean).view(-1, 1, 1)
            self.std = torch.tensor(self.source.std).view(-1, 1, 1)
        self._freeze(not self.random and unfreeze_epoch != 0)

    def _source(self, backbone: str, weights: str, image_size: int | None) -> Backbone:
        if backbone in torchvision_names():
            return torchvision_backbone(backbone, weights, self.input_shape, image_size)
        source = kindling_backbone(backbone)
        if image_size is not None:
            raise ValueError(f"image_size can't be chosen: {backbone} takes the size that it was trained on")
        if weights not in ("DEFAULT", "none"):
            raise ValueError(f"weights {weights} can't be chosen: {backbone} brings its own; none are random ones")
        return source

    @property
    def backbone(self) -> nn.Module:
        """The trained network without its last layer."""
        return self.network.get_submodule("backbone")

    @property
    def head(self) -> nn.Module:
        """The layer that is new."""
        return self.network.get_submodule("head")

    @property
    def waits(self) -> bool:
        """Whether the backbone is frozen and to be unfrozen later."""
        return self.frozen and self.unfreeze_epoch is not None

    @override
    def init_lazy_layers(self) -> None:
        if self._weights_missing:
            self.source.load(self.backbone)
            self._weights_missing = False
        super().init_lazy_layers()

    def _freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    @override
    def train(self, mode: bool = True) -> "TransferClassifier":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()  # batch norm keeps the statistics that the weights were trained with
        return self

    def features(self, images: Tensor) -> Tensor:
        """What the head is given, (N, features), of raw images (N, C, H, W)."""
        if self._weights_missing:
            self.init_lazy_layers()
        features: Tensor = self.backbone(self.network[0]((images - self.mean) / self.std))
        return features

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        if self._weights_missing:
            self.init_lazy_layers()
        if inputs.ndim == 2:  # features that were computed before
            logits: Tensor = self.head(inputs)
            return logits.float()
        logits = super().forward(inputs)
        return logits

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._cached.remove()  # of a fit that was stopped

    @override
    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "name": "head"}]
        if not self.frozen:
            backbone = {"params": list(self.backbone.parameters()), "name": "backbone", "lr_scale": self.backbone_lr}
            groups.append(backbone)
        return groups

    def _frozen_steps(self, began: int) -> tuple[float, int]:
        """Optimizer steps of the frozen phase after `began` of them, and those of an epoch."""
        self.trainer.fit_loop.setup_data()  # says how many batches there are
        of_an_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        steps = self.trainer.estimated_stepping_batches
        if self.unfreeze_epoch is not None:
            steps = min(steps, self.unfreeze_epoch * of_an_epoch)
        return steps - began, of_an_epoch

    @override
    def schedule_steps(self, began: int) -> int:
        if not self.frozen:
            return super().schedule_steps(began)
        return max(1, int(self._frozen_steps(began)[0]))  # none are left where it is unfrozen before the next one

    @override
    def on_train_start(self) -> None:
        if self.waits and self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise ValueError(
                f"{type(self.trainer.strategy).__name__} can't unfreeze a backbone during training: use "
                "--trainer.strategy ddp, or --model.unfreeze_epoch 0 or null"
            )
        if self.frozen and self.cache_features:
            remaining, of_an_epoch = self._frozen_steps(self.global_step)
            self._cached.put(self.trainer, self._features_of, remaining / of_an_epoch, for_good=not self.waits)

    def _features_of(self, batch: Any) -> Tensor:
        images = self.trainer.strategy.batch_to_device(batch)[0]
        with self.trainer.precision_plugin.forward_context():
            return self.features(images).to(batch[1].device)

    @override
    def on_train_epoch_start(self) -> None:
        if self.unfreeze_epoch is not None and self.frozen and self.current_epoch >= self.unfreeze_epoch:
            self._cached.remove()
            self._freeze(False)
            self.schedule_start = self.global_step
            strategy = self.trainer.strategy
            if isinstance(strategy, DDPStrategy):
                # DistributedDataParallel averages the gradients of what was trainable when it was constructed.
                strategy.model = strategy.lightning_module
                strategy.configure_ddp()
            (head,) = self.trainer.optimizers
            strategy.setup_optimizers(self.trainer)
            self.trainer.optimizers[0].state.update(head.state)  # momentum of the head

    @override
    def on_validation_start(self) -> None:
        # Early stopping counts validations without an improvement, but none of them before the backbone is trained.
        for stopper in self.trainer.early_stopping_callbacks:
            stopper.wait_count = -sys.maxsize if self.waits else max(0, stopper.wait_count)

    @override
    def on_train_end(self) -> None:
        self._cached.remove()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["frozen"] = self.frozen

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        due = self.unfreeze_epoch is not None and checkpoint["epoch"] >= self.unfreeze_epoch
        self._freeze(checkpoint["frozen"] and not due)
        if not self.is_fitting or "optimizer_states" not in checkpoint:
            return
        changed = self.unfreeze_epoch != checkpoint["hyper_parameters"]["unfreeze_epoch"]
        if changed and not checkpoint["frozen"] and not self.random:
            logger.info(f"unfreeze_epoch {self.unfreeze_epoch} has no effect: the backbone is being trained already")
        if checkpoint["frozen"] and due:
            self.restart_lr_schedule(checkpoint)
        for group in checkpoint["optimizer_states"][0]["param_groups"][1:]:
            group["lr_scale"] = self.backbone_lr


def _note_weights(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Takes note that weights of the backbone come with a state dict, that of the model or of what it is a part of."""
    assert isinstance(model, TransferClassifier)
    expected = model.backbone.state_dict(prefix=f"{prefix}network.backbone.")
    if all(name in state and state[name].shape == value.shape for name, value in expected.items()):
        model._weights_missing = False


def _init_lazy_layers(model: nn.Module, *_: Any) -> None:
    """Before a state dict is read: it never holds random weights that are to be replaced."""
    assert isinstance(model, TransferClassifier)
    model.init_lazy_layers()
