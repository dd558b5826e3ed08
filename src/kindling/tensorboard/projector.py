"""The last hidden layer in TensorBoard's projector."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from kindling.tensorboard.predictions import Inputs, PredictionTabs
from kindling.training.output_collector import gather_samples
from kindling.training.row_buffer import RowBuffer
from kindling.utils.pictures import are_images
from kindling.utils.tensors import evenly_spaced, to_float

MAX_POINTS = 1000  # browsers rotate more of them slowly
MAX_FEATURES = 200  # the projector ignores further dimensions of a point
TAG = "last_hidden_layer"
SPRITE = 32  # height and width of a point's image in pixels


class HiddenFeatures:
    """The inputs of the last linear layer of a model during a test.

    Args:
        model: The model. An ensemble has many last layers and nothing to train; its features are not collected.
    """

    def __init__(self, model: LightningModule) -> None:
        self._rows = RowBuffer()
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._layer = linear[-1] if linear and linear[-1].weight.requires_grad else None
        self._hook = self._layer.register_forward_pre_hook(self._collect) if self._layer else None

    def _collect(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0].ndim == 2:  # (n, features)
            self._rows.add((inputs[0].float(),))

    def gather(self, trainer: Trainer) -> Tensor | None:
        """Return the features of all samples of all processes, shape (N, features), and stop collecting."""
        if self._layer is None or self._hook is None:
            return None
        self._hook.remove()
        [features] = self._rows.take() or [torch.empty(0, self._layer.in_features)]
        return gather_samples(features, trainer)


def write_projector(
    writer: SummaryWriter, features: Tensor, predictions: PredictionTabs, inputs: Inputs, step: int
) -> None:
    """Write up to 1,000 points of hidden features (N, features) with targets, predictions and images."""
    chosen = evenly_spaced(len(features), MAX_POINTS)
    sprites = None
    if are_images(inputs(chosen[:1])):
        parts = [inputs(part) for part in torch.split(chosen, 50)]  # photos as floats are large
        sprites = torch.cat([to_sprites(part) for part in parts if part is not None])
    metadata = [list(row) for row in predictions.points(chosen)]
    folder = Path(writer.log_dir)
    for earlier in folder.glob(f"*/{TAG}"):
        shutil.rmtree(earlier.parent)
    (folder / "projector_config.pbtxt").unlink(missing_ok=True)  # torch would append to it
    points = reduce_features(features[chosen])
    header = list(predictions.point_header)
    try:
        writer.add_embedding(points, metadata, sprites, step, tag=TAG, metadata_header=header)
    except OSError:  # a full disk, for example
        for partial in folder.glob(f"*/{TAG}"):
            shutil.rmtree(partial.parent)
        raise


def to_sprites(images: Tensor) -> Tensor:
    """Downscale images (n, 1 or 3, H, W) to sprites (n, 3, SPRITE, SPRITE)."""
    small = F.interpolate(to_float(images), (SPRITE, SPRITE), mode="bilinear", antialias=True)
    return small.clamp(0, 1).expand(-1, 3, -1, -1)


def reduce_features(points: Tensor) -> Tensor:
    """Return points (N, features), reduced to their first principal components if they have many features."""
    if points.shape[1] <= MAX_FEATURES or not points.isfinite().all():  # PCA fails on NaN, from a model that diverged
        return points[:, :MAX_FEATURES]
    from sklearn.decomposition import PCA  # scikit-learn imports pandas: 0.5 s

    return torch.from_numpy(PCA(min(MAX_FEATURES, len(points)), svd_solver="full").fit_transform(points.numpy()))
