"""Prediction from Python: `load` a trained model and call `predict`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kindling.data.images.bit_depth import warn_small_range
from kindling.data.images.decode import read_image
from kindling.data.images.scan import find_images
from kindling.data.tables.rows import distinct_columns, encode_rows
from kindling.deploy.model_card import ModelCard, read_card
from kindling.models.loading import load_model
from kindling.runs.checkpoints import read_checkpoint
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.utils.decision_threshold import THRESHOLD, predicted_classes
from kindling.utils.inputs import fit_image
from kindling.utils.plugins import import_plugins
from kindling.utils.tensors import to_float, to_input_tensor
from kindling.utils.text import join_names

__all__ = ["MultiLabelPrediction", "Prediction", "Predictor", "RegressionPrediction", "load"]

BATCH_SIZE = 256


class Prediction(NamedTuple):
    """Predictions of a classifier for N samples.

    Attributes:
        labels: Predicted class of each sample, the most probable one unless the model has a decision threshold; nested
            lists if a sample has a class at each position.
        probabilities: Shape (N, classes) or (N, classes, ...), float32.
    """

    labels: list[Any]
    probabilities: NDArray[np.float32]


class RegressionPrediction(NamedTuple):
    """Predictions of a regression model for N samples.

    Attributes:
        values: In the units of the targets, shape (N,), float32.
    """

    values: NDArray[np.float32]


class MultiLabelPrediction(NamedTuple):
    """Predictions of a multi-label classifier for N samples.

    Attributes:
        labels: For each sample, the classes with a probability of at least 0.5.
        probabilities: Of each class, independent of the others, shape (N, classes), float32.
    """

    labels: list[list[str]]
    probabilities: NDArray[np.float32]


class Predictor:
    """A trained model that takes images, files, arrays and data frames.

    Args:
        compute: Takes inputs (N, *input_shape) and returns probabilities (N, classes), or for regression values (N,).
        card: Description of the model.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], card: ModelCard) -> None:
        self.compute = compute
        self.card = card

    def __repr__(self) -> str:
        predicts = "numbers" if self.card.task == "regression" else f"classes {join_names(self.card.classes)}"
        return f"Predictor: {self.card.model}, takes {self.takes}, predicts {predicts}"

    def predict(self, samples: Any) -> Any:
        """Return the predictions for one or more samples.

        They are a `Prediction`, a `RegressionPrediction` or a `MultiLabelPrediction`, depending on the task.

        Args:
            samples: Images: PIL images, paths of files or of a folder, or arrays and tensors (N, C, H, W) of uint8, or
                of floats in [0, 1]. Rows of a table: a data frame, the path of a CSV file, or dictionaries. Features:
                arrays and tensors (N, F). A single sample is possible, too.

        Raises:
            ValueError: If the model does not take such samples.
        """
        inputs = self.inputs(samples)
        outputs = torch.cat([self.compute(part) for part in torch.split(inputs, BATCH_SIZE)])
        if self.card.task == "regression":
            return RegressionPrediction(outputs.numpy())
        if self.card.task == "multilabel":
            rows = (outputs >= THRESHOLD).tolist()
            labels = [[name for name, has in zip(self.card.classes, row, strict=True) if has] for row in rows]
            return MultiLabelPrediction(labels, outputs.numpy())
        names = np.array(self.card.classes, dtype=object)
        return Prediction(names[predicted_classes(outputs, self.card.decision).numpy()].tolist(), outputs.numpy())

    def inputs(self, samples: Any) -> Tensor:
        """Return samples as input of the model, floats of shape (N, *input_shape)."""
        if isinstance(samples, str | Path | Image.Image | dict):
            samples = [samples]
        if isinstance(samples, list | tuple) and not samples:
            raise ValueError(f"there are no samples: the model takes {self.takes}")
        first = samples[0] if isinstance(samples, list | tuple) and samples else samples
        if isinstance(first, dict) or hasattr(first, "columns"):  # a data frame
            return self._rows(samples, "the input")
        if not isinstance(first, str | Path | Image.Image):
            return to_input_tensor(samples, self.card.input_shape)
        if self.card.takes_images:
            return torch.cat([self._images(sample) for sample in samples])
        if isinstance(first, Image.Image):
            raise ValueError(f"the model takes {self.takes}, not images")
        return torch.cat([self._rows(path, path) for path in samples])

    @property
    def takes(self) -> str:
        """Description of the inputs."""
        if self.card.columns is None:
            files = "images (PNG, JPEG, ...) of any size, or " if self.card.takes_images else ""
            return f"{files}numbers of shape {self.card.input_shape}"
        return f"rows with the columns {join_names([column['name'] for column in distinct_columns(self.card.columns)])}"

    def _rows(self, rows: Any, source: object) -> Tensor:
        if self.card.columns is None:
            raise ValueError(f"the model takes {self.takes}, not rows of a table")
        return torch.from_numpy(encode_rows(rows, self.card.columns, source))

    def _images(self, image: str | Path | Image.Image) -> Tensor:
        shape, levels = self.card.input_shape, self.card.levels
        if isinstance(image, Image.Image):
            return to_float(fit_image(image, shape, levels)).unsqueeze(0)
        root, names = find_images(Path(image))
        files = [root / name for name in names]
        if not files:
            raise ValueError(f"{image} has no images")
        warn_small_range(files, levels)
        return torch.stack([to_float(read_image(file, shape, levels)) for file in files])


def load(where: str | Path = "best", device: str = "cpu", plugins: Sequence[str | Path] = ()) -> Predictor:
    """Load a trained classifier, multi-label classifier or regression model.

    Args:
        where: Checkpoint, run folder, or `best` or `last` of the newest run.
        device: cpu, cuda or mps.
        plugins: Files or modules that define the model, if it is not in an installed package.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it was not written by Kindling, has not been trained, or is a model of another kind.
    """
    if plugins:
        import_plugins(plugins)
    path = find_checkpoint(where)
    stored = read_checkpoint(path)
    model = load_model(path, stored).to(device)
    card = read_card(path, stored, model)
    example, name = model.example_input_array, card.model
    if card.task is None:
        raise ValueError(
            f"{name} is neither a classifier nor a regression model: load it with {name}.load_from_checkpoint"
        )
    if not (model.sample_shape or example is None):
        kind = "integers" if isinstance(example, Tensor) else "several inputs"
        raise ValueError(f"{name} has {kind}: export it, or load it with {name}.load_from_checkpoint")
    if not model.sample_shape:
        raise ValueError(
            f"{name} does not say what its inputs look like: set self.example_input_array in its __init__ if they are "
            f"one tensor of floats; else export it, or load it with {name}.load_from_checkpoint"
        )

    @torch.inference_mode()
    def compute(inputs: Tensor) -> Tensor:
        outputs = model(inputs.to(device))
        is_classifier = card.task == "classification"
        found: Tensor = model.calibrate(outputs).softmax(dim=1) if is_classifier else model.to_prediction(outputs)
        return found.cpu()

    return Predictor(compute, card)
