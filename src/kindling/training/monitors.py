"""The metrics that best checkpoints and early stopping monitor."""

from lightning.pytorch import Trainer

from kindling.utils.text import join_names, suggest

DEFAULT_MONITOR = "val/loss"


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
