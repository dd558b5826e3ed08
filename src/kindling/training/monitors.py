"""The metrics that best checkpoints and early stopping monitor."""

import re
from typing import Literal

from lightning.pytorch import Trainer

from kindling.utils.text import join_names, suggest

DEFAULT_MONITOR = "val/loss"
Mode = Literal["auto", "min", "max"]
# Names of metrics that are better if they are higher.
HIGHER_IS_BETTER = re.compile(
    r"(?<![a-z])(acc|accuracy|average_precision|f1|fbeta|auc|auroc|precision|recall|specificity|sensitivity|r2|kappa|mcc|"
    r"iou|jaccard|dice|psnr|ssim|bleu|rouge|pearson|spearman|top_?\d+)(?![a-z])"
)


def resolve_mode(mode: Mode, monitor: str) -> Literal["min", "max"]:
    """Return whether lower or higher values of a metric are better; auto decides by its name, and min if unknown.

    Examples:
        >>> resolve_mode("auto", "val/balanced_accuracy"), resolve_mode("auto", "valid_loss"), resolve_mode("max", "x")
        ('max', 'min', 'max')
    """
    if mode != "auto":
        return mode
    return "max" if HIGHER_IS_BETTER.search(monitor.lower()) else "min"


def is_missing(monitor: str | None, trainer: Trainer) -> bool:
    """Return whether `monitor` is the default metric but was not logged (a model may log no `val/loss`)."""
    return monitor == DEFAULT_MONITOR and monitor not in trainer.callback_metrics


def check_monitor(option: str, monitor: str | None, trainer: Trainer) -> None:
    """Raise ValueError, with the metrics that are logged, if the metric that an option monitors is not among them."""
    names = sorted(trainer.callback_metrics)
    if monitor in names:
        return
    raise ValueError(
        f"{option} {monitor}: no such metric is logged{suggest(str(monitor), names)} (logged so far: "
        f"{join_names(names)})"
    )
