"""Model arguments that describe the data, and the task that model and data must share."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kindling.models.task import BaseTask

# Model arguments that describe the data; a data module provides them as attributes.
DATA_ARGUMENTS = ("num_classes", "input_shape", "mean", "std", "class_names", "numeric_features")

Task = Literal["classification", "regression", "multilabel"]

# For each task, what the targets of a sample are, and a model for them.
TARGETS: dict[Task, tuple[str, str]] = {
    "classification": ("classes", "a classifier"),
    "regression": ("numbers", "a regression model such as MLPRegressor"),
    "multilabel": ("multi-label targets", "a multi-label classifier such as MLPMultiLabelClassifier"),
}


def check_task(model: "type[BaseTask]", data: object) -> None:
    """Raise ValueError if a model predicts something else than the targets of a data module."""
    found = getattr(data, "task", None)
    if model.task is None or found not in TARGETS or found == model.task:
        return
    targets, advice = TARGETS[found]
    if "task" in getattr(data, "hparams", {}):
        advice += f", or --data.task {model.task}"
    raise ValueError(f"{model.__name__} predicts {TARGETS[model.task][0]}, but the targets are {targets}: use {advice}")
