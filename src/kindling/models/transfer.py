"""Transfer learning: a network that was trained on other images gets a new head."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from typing_extensions import override

from kindling.models.backbones import Source, kindling_backbone, torchvision_backbone, torchvision_names
from kindling.models.classifier import Classifier

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601, as Pillow has it


class Adapt(nn.Module):
    """Brings images (N, C, H, W) to the channels and size that a backbone takes.

    Args:
        channels: 1 or 3; grey is repeated, colour is weighted into grey.
        size: Height and width.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.size = channels, size

    @override
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 3 and self.channels == 1:
            images = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        images = images.expand(-1, self.channels, -1, -1)
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images  # (N, channels, *size)


class TransferClassifier(Classifier):
    """A trained network, the backbone, with a new linear layer for the classes at hand.

    At first the backbone is frozen, its batch-norm statistics too, and the head alone is trained; then all of it, the
    backbone with a smaller learning rate. Each of the two parts has a schedule of its own.

    Args:
        backbone: A classification network of torchvision by name (resnet18, convnext_tiny, vit_b_16 ...), or one that
            was trained here: a run folder or a checkpoint.
        weights: What the backbone starts from: `DEFAULT` or a name of torchvision's (IMAGENET1K_V1), downloaded once;
            a file of them; `none` for random weights, all of which train from the start and alike. A network that was
            trained here brings its own.
        image_size: Height and width to which images are resized; by default they are resized only where the network
            needs it.
        unfreeze_epoch: Epoch, counted from 0, from which the backbone is trained as well; 0 trains it from the start,
            null never.
        backbone_lr: Learning rate of the backbone as a share of the head's.
        cache_features: Whether a frozen backbone is asked once for each image and not in each epoch; without effect
            where the images are augmented.
        **recipe: What all models share, see `Classifier`.

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
        **recipe: Any,
    ) -> None:
        super().__init__(**recipe)
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            raise ValueError(
                f"TransferClassifier needs images (1 or 3 channels, height, width), not {self.input_shape}"
            )
        if unfreeze_epoch is not None and unfreeze_epoch < 0:
            raise ValueError(f"unfreeze_epoch must not be negative: {unfreeze_epoch}")
        self.unfreeze_epoch = unfreeze_epoch
        self.random = weights == "none"
        self.backbone_lr = 1.0 if self.random else backbone_lr
        self.cache_features = cache_features
        self._images: list[tuple[Any, Any]] = []  # of the datasets that hold features for a while
        self.source = self._source(backbone, weights, image_size)
        self.hparams["backbone"] = self.source.config  # a checkpoint needs nothing but itself
        # Loaded when they are first needed, unless a checkpoint brings others.
        self._weights_missing = not self.random
        self.register_load_state_dict_post_hook(_has_weights)  # type: ignore[no-untyped-call]
        parts = {
            "adapt": Adapt(self.source.channels, self.source.size),
            "backbone": self.source.network,
            "head": nn.Linear(self.source.features, self.num_classes),
        }
        self.network: nn.Sequential = nn.Sequential(OrderedDict(parts)).to(memory_format=torch.channels_last)
        if not self.random:  # inputs as the weights know them
            self.mean = torch.tensor(self.source.mean).view(-1, 1, 1)
            self.std = torch.tensor(self.source.std).view(-1, 1, 1)
        self._freeze(not self.random and unfreeze_epoch != 0)

    def _source(self, backbone: str, weights: str, image_size: int | None) -> Source:
        if backbone in torchvision_names():
            return torchvision_backbone(backbone, weights, self.input_shape, image_size)
        if image_size is not None:
            raise ValueError(f"image_size can't be chosen: {backbone} takes the size that it was trained on")
        return kindling_backbone(backbone)

    @property
    def backbone(self) -> nn.Module:
        """The trained network without its last layer."""
        return self.network.get_submodule("backbone")

    @property
    def head(self) -> nn.Module:
        """The layer that is new."""
        return self.network.get_submodule("head")

    @override
    def materialize(self) -> None:
        if self._weights_missing:
            self.backbone.load_state_dict(self.source.weights())
            self._weights_missing = False
        super().materialize()

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
        features: Tensor = self.backbone(self.network[0]((images - self.mean) / self.std))
        return features

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        if self._weights_missing:
            self.materialize()
        if inputs.ndim == 2:  # features that were computed before
            logits: Tensor = self.head(inputs)
            return logits.float()
        return super().forward(inputs)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.frozen and self.unfreeze_epoch is not None and self.trainer.world_size > 1:
            # DistributedDataParallel takes note of what is trained before the first step.
            raise ValueError("several devices can't unfreeze a backbone on the way: --model.unfreeze_epoch 0 or null")

    @override
    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters())}]
        if not self.frozen:
            groups.append({"params": list(self.backbone.parameters()), "lr_scale": self.backbone_lr})
        return groups

    @override
    def schedule_steps(self, began: int) -> int:
        steps = super().schedule_steps(0)
        if self.frozen and self.unfreeze_epoch is not None:
            of_an_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
            steps = min(steps, self.unfreeze_epoch * of_an_epoch)
        return steps - began

    @override
    def on_train_start(self) -> None:
        if self.frozen and self.cache_features and not getattr(self.trainer.datamodule, "augments", True):  # type: ignore[attr-defined]
            for loader in (self.trainer.train_dataloader, self.trainer.val_dataloaders):
                # Worker processes would go on with the features once the backbone is trained.
                if loader is not None and (self.unfreeze_epoch is None or not loader.num_workers):
                    self._images.append((loader.dataset, loader.dataset.inputs))
                    loader.dataset.inputs = self._features_of(loader)

    @torch.no_grad()
    def _features_of(self, loader: DataLoader[Any]) -> Tensor:
        in_order: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_size=64,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            generator=torch.Generator(),  # the random numbers of the training stay where they are
        )
        found = []
        for batch in in_order:
            images = self.trainer.strategy.batch_to_device(batch)[0]
            with self.trainer.precision_plugin.forward_context():
                found.append(self.features(images).to(batch[1].device))
        return torch.cat(found)

    @override
    def on_train_epoch_start(self) -> None:
        if self.frozen and self.unfreeze_epoch is not None and self.current_epoch >= self.unfreeze_epoch:
            while self._images:
                dataset, images = self._images.pop()
                dataset.inputs = images
            self._freeze(False)
            self.schedule_start = self.global_step
            self.trainer.strategy.setup_optimizers(self.trainer)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["frozen"] = self.frozen

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._freeze(checkpoint["frozen"])


def _has_weights(model: nn.Module, incompatible_keys: object) -> None:
    assert isinstance(model, TransferClassifier)
    model._weights_missing = False  # whatever it is a part of was loaded
