"""Transfer learning: a pretrained backbone with a new head."""

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from kindling.models.backbone_network import BackboneNetwork, InputAdapter
from kindling.models.backbones import find_backbone
from kindling.models.classification import ClassificationTask
from kindling.models.loading import is_model_spec
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import RegressionTask
from kindling.models.unfreezing import PhasedModel

logger = logging.getLogger(__name__)


class TransferModel(PhasedModel):
    """A pretrained backbone with a new linear head, to be combined with a task.

    The backbone, including its batch-norm statistics, is frozen at first, and only the head is trained. From
    `unfreeze_epoch` on the backbone is trained too, with a smaller learning rate. Each of the two phases has its own
    schedule and warm-up, which start with the phase. Early stopping counts only epochs of the second phase.

    Args:
        backbone: Name of a torchvision classification network (resnet18, convnext_tiny, vit_b_16 ...); of a network of
            timm (timm:convnextv2_nano, or timm:resnet50.a1_in1k for certain weights); or the run folder or checkpoint
            of a model trained with Kindling.
        weights: Initial weights of the backbone: `DEFAULT` or the name of a torchvision weight set (IMAGENET1K_V1),
            downloaded once; a file; or `none` for random weights, with which nothing is frozen. Models trained with
            Kindling use their own weights.
        image_size: Height and width to which images are resized. By default those that the weights of a timm network
            expect; otherwise, only as far as the network needs it. A vision transformer needs a multiple of its patch
            size, and its position embedding is interpolated.
        interpolation: How images are resized; by default as the weights of a timm network expect, otherwise bilinear.
        unfreeze_epoch: Epoch, counted from 0, from which the backbone is trained; 0 trains it from the start, null
            never.
        backbone_lr: Learning rate of the backbone relative to that of the head.
        cache_features: Whether to compute the features of a frozen backbone once per image and reuse them in each
            epoch. Not done if images are augmented, the Trainer limits the batches, fewer than two frozen epochs
            remain, or worker processes load images that are needed again once the backbone is unfrozen.
        **kwargs: See the task.

    Raises:
        ValueError: If there is no such backbone, or it does not support such images.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str = "DEFAULT",
        image_size: int | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        unfreeze_epoch: int | None = 1,
        backbone_lr: float = 0.1,
        cache_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            raise ValueError(
                f"{type(self).__name__} needs images (1 or 3 channels, height, width), got shape {self.input_shape}"
            )
        if unfreeze_epoch is not None and unfreeze_epoch < 0:
            raise ValueError(f"unfreeze_epoch must not be negative, got {unfreeze_epoch}")
        if not backbone_lr >= 0:
            raise ValueError(f"backbone_lr must not be negative, got {backbone_lr}")
        self.unfreeze_epoch = unfreeze_epoch
        self.is_random = weights == "none"
        self.backbone_lr = 1.0 if self.is_random else backbone_lr
        self.cache_features = cache_features
        source = find_backbone(backbone, weights, self.input_shape, image_size)
        self.source = replace(source, interpolation=interpolation or source.interpolation)
        # Makes checkpoints self-contained, also if the defaults of timm change.
        self.hparams["backbone"] = self.source.config
        if self.source.image_size is not None:
            self.hparams["image_size"] = self.source.image_size
        self.hparams["interpolation"] = self.source.interpolation
        self._weights_missing = not self.is_random  # see `_before_load_state_dict`
        self.register_load_state_dict_pre_hook(_before_load_state_dict)  # type: ignore[no-untyped-call]
        self.register_state_dict_pre_hook(_before_state_dict)  # type: ignore[no-untyped-call]
        parts = {
            "adapt": InputAdapter(self.source.channels, self.source.size, self.source.interpolation),
            "backbone": self.source.network,
            "head": nn.Linear(self.source.features, self.num_outputs),
        }
        self.network: BackboneNetwork = BackboneNetwork(OrderedDict(parts)).to(memory_format=torch.channels_last)
        if not self.is_random:  # normalize as in pretraining
            self.mean = torch.tensor(self.source.mean).view(-1, 1, 1)
            self.std = torch.tensor(self.source.std).view(-1, 1, 1)
        self._freeze(not self.is_random and unfreeze_epoch != 0)

    @override
    def init_lazy_layers(self) -> None:
        if self._weights_missing:
            self.source.load(self.backbone)
            self._weights_missing = False
            if not is_model_spec(self.source.config):
                logger.info(self.source.describe_inputs(self.input_shape))
        super().init_lazy_layers()

    @override
    def features(self, images: Tensor) -> Tensor:
        """Return the inputs of the head, (N, features), for raw images (N, C, H, W)."""
        if self._weights_missing:
            self.init_lazy_layers()
        features: Tensor = self.backbone(self.network[0](self.normalize(images)))
        return features

    @override
    def normalize(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.ndim == 2 else super().normalize(inputs)  # cached features

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        if self._weights_missing:
            self.init_lazy_layers()
        return super().forward(inputs)  # type: ignore[no-any-return]


def _before_load_state_dict(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Note whether a state dict, of the model or of a module that contains it, contains the backbone's weights.

    The pretrained weights are read as late as possible, since a checkpoint contains those of the backbone:

    1. The constructor builds the backbone with random weights and sets `_weights_missing`.
    2. Loading a state dict that contains the backbone clears it here: the pretrained weights are never read.
    3. Otherwise `init_lazy_layers` reads them and clears it: at `setup`, the first forward pass, or in
       `_before_state_dict`.
    """
    assert isinstance(model, TransferModel)
    expected = model.backbone.state_dict(prefix=f"{prefix}network.backbone.")
    if all(name in state and state[name].shape == value.shape for name, value in expected.items()):
        model._weights_missing = False


def _before_state_dict(model: nn.Module, *_: Any) -> None:
    """Read missing pretrained weights: a state dict must not contain the random initial ones."""
    assert isinstance(model, TransferModel)
    model.init_lazy_layers()


class TransferRegressor(TransferModel, RegressionTask):
    """Regression model with a pretrained backbone and a new linear head.

    See `TransferModel` and `RegressionTask`.
    """


class TransferMultiLabelClassifier(TransferModel, MultiLabelTask):
    """Multi-label classifier with a pretrained backbone and a new linear head.

    See `TransferModel` and `MultiLabelTask`.
    """


class TransferClassifier(TransferModel, ClassificationTask):
    """Classifier with a pretrained backbone and a new linear head.

    See `TransferModel` and `ClassificationTask`.
    """

    regressor = TransferRegressor
    multilabel_classifier = TransferMultiLabelClassifier
