"""The model card: all that is needed to use a model without its class; read from checkpoints, stored in exports."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kindling import __version__
from kindling.data.tables.rows import width
from kindling.evaluation.regression import Target
from kindling.models import BaseTask, ClassificationTask, MultiLabelTask, RegressionTask
from kindling.models.data_arguments import Task
from kindling.runs.folders import run_folder_of
from kindling.runs.metadata import TEST
from kindling.runs.text_files import read_json
from kindling.utils.decision_threshold import DecisionThreshold


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to use a model; also stored in exported files.

    Attributes:
        model: Name of its class.
        classes: Class names, in the order of the probabilities; empty for numbers.
        input_shape: Shape of a sample: (C, H, W) or (F,).
        columns: For tables, how columns are encoded as features: see `kindling.data.tables.columns`.
        levels: For 16-bit images, the values to map to 0 and 255; None for 0 and 65,535.
        metrics: Test metrics of its run; None for NaN.
        task: "classification" if it predicts one class, "multilabel" if it predicts any number of classes,
            "regression" if it predicts a number, None for other models.
        target: For regression, name of the column that it predicts, if it has one; else "target".
        unit: Unit of the predicted numbers; empty if it is not known.
        threshold: For two classes, the probability from which `positive_class` is predicted; None to predict the most
            probable class.
        positive_class: See `threshold`.
        threshold_metric: Metric for which the threshold was chosen on the validation split; empty if it was given.
        kindling: Version of Kindling that wrote this.

    Raises:
        ValueError: If `threshold` is no probability, or `positive_class` is not one of two classes.
    """

    model: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    columns: list[dict[str, Any]] | None = None
    levels: list[int] | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    task: Task | None = "classification"
    target: str = "target"
    unit: str = ""
    threshold: float | None = None
    positive_class: str = ""
    threshold_metric: str = ""
    kindling: str = __version__

    def __post_init__(self) -> None:
        DecisionThreshold.of_card(vars(self))

    def as_dict(self) -> dict[str, Any]:
        """Return the card as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, card: dict[str, Any]) -> "ModelCard":
        """Return a card from the result of `as_dict`, also after JSON, or that of an earlier version."""
        card = card | {name: tuple(card[name]) for name in ("classes", "input_shape")}
        if not card.pop("classifies", True):  # in place of `task`, until version 0.1
            card["task"] = None
        return cls(**card)

    @property
    def decision(self) -> DecisionThreshold | None:
        """The decision threshold, for `predicted_classes`."""
        return DecisionThreshold.of_card(vars(self))

    @property
    def takes_images(self) -> bool:
        """Whether a sample is an image."""
        return len(self.input_shape) == 3

    @property
    def takes_rows(self) -> bool:
        """Whether a sample is a row of a table."""
        return self.columns is not None and self.input_shape == (sum(map(width, self.columns)),)


def task_of(model: BaseTask) -> Task | None:
    """Return the task of a model; None for others than classification, multi-label classification and regression."""
    known = isinstance(model, ClassificationTask | MultiLabelTask | RegressionTask)
    return model.task if known else None


def metrics_file(checkpoint: Path) -> Path:
    """Return the file with the test metrics of a checkpoint's run, which may not exist yet."""
    return run_folder_of(checkpoint) / TEST


def read_card(checkpoint: Path, stored: dict[str, Any], model: BaseTask) -> ModelCard:
    """Describe the model of a checkpoint by its attributes, the fitted state of its data, and its run."""
    data = stored.get("datamodule_hyper_parameters", {})
    learned = stored.get(data.get("_class_path", "").rpartition(".")[2], {})
    target = Target.of(learned)
    classes = tuple(getattr(model, "class_names", ()))
    threshold = model.threshold if isinstance(model, ClassificationTask) else None
    return ModelCard(
        model=type(model).__name__,
        classes=classes,
        input_shape=model.sample_shape,
        columns=learned.get("columns"),
        levels=learned.get("levels"),
        metrics=read_json(metrics_file(checkpoint)),
        task=task_of(model),
        target=target.name,
        unit=target.unit,
        threshold=threshold.value if threshold else None,
        positive_class=classes[threshold.positive] if threshold else "",
        threshold_metric=threshold.metric if threshold else "",
    )
