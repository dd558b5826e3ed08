"""Old names of classes, which keep working for one version, with a note."""

import logging
from functools import cache

logger = logging.getLogger(__name__)

PACKAGES = {"kindling.callbacks.": "kindling.training."}
CLASSES = {
    "FiniteLoss": "TerminateOnNaN",
    "SpeedHint": "PerformanceHint",
    "StepFigures": "TrainingStatsMonitor",
    "TrainingHistory": "PlotTrainingHistory",
    "Watch": "LayerHealthMonitor",
}


def present_path(class_path: str) -> str:
    """Return the current path of a class that may have been renamed."""
    for old, new in PACKAGES.items():
        if class_path.startswith(old):
            _hint(old.rstrip("."), new.rstrip("."))
            class_path = new + class_path.removeprefix(old)
    package, _, name = class_path.rpartition(".")
    if name in CLASSES and package in ("", "kindling.training"):
        _hint(name, CLASSES[name])
        class_path = f"kindling.training.{CLASSES[name]}"
    return class_path


@cache
def _hint(old: str, new: str) -> None:
    logger.warning(f"note: {old} has been renamed to {new}")
