"""The curves of a run: loss and accuracy over its epochs, training against validation."""

import csv
from collections import defaultdict
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from kindling.runs import whole_file

# Okabe and Ito's palette: told apart by colour-blind readers and in print.
COLOURS = {"train": "#0072B2", "val": "#D55E00"}
LABELS = {"train": "training", "val": "validation"}


def read_history(metrics: Path) -> dict[str, dict[int, float]]:
    """Reads `metrics.csv` as {metric: {epoch: value}}; the last value of an epoch counts."""
    history: dict[str, dict[int, float]] = defaultdict(dict)
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    history[name][int(row["epoch"])] = float(value)
    return history


def plot_history(run: Path) -> None:
    """Draws `training_history.png` of a run from its `metrics.csv`."""
    from matplotlib.figure import Figure  # 0.7 s to import, needed once at the end

    history = read_history(run / "metrics.csv")
    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    best = min(history["val/loss"], key=history["val/loss"].__getitem__, default=None)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, metric in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        for stage, label in LABELS.items():
            curve = history[f"{stage}/{metric}"]
            axes.plot([epoch + 1 for epoch in curve], curve.values(), "o-", ms=3, color=COLOURS[stage], label=label)
        if best is not None:
            label = f"lowest validation loss: epoch {best + 1}"
            axes.axvline(best + 1, color="0.6", lw=1, ls="--", zorder=1, label=label)
        axes.set(xlabel="epoch", ylabel={"loss": "cross-entropy", "accuracy": "accuracy"}[metric], title=metric)
        axes.set_xlim(0.5, max([*history["train/loss"], *history["val/loss"]], default=0) + 1.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy_axes.yaxis.set_major_formatter(lambda share, _: f"{share:.1%}")
    accuracy_axes.legend(edgecolor="none", framealpha=0.9)
    with whole_file(run / "training_history.png") as path:
        figure.savefig(path, format="png")


class TrainingHistory(Callback):
    """Draws the history when training ends or is stopped.

    Args:
        run: The run folder, with `metrics.csv` in it.
    """

    def __init__(self, run: Path) -> None:
        self.run = run

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and (self.run / "metrics.csv").exists():
            plot_history(self.run)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
