"""The learning-rate finder: the loss while the rate grows from step to step."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from kindling.models.task import BaseTask
from kindling.training.terminate_on_nan import TerminateOnNaN
from kindling.tuning.short_fit import clone_model, short_fit
from kindling.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 6  # steps: the standard deviation of the bell that smooths the losses
LEAST = 30  # losses: fewer are no curve
DIVERGED = 4.0  # times the lowest loss: a rate that leads there is too high by far
PEAKED = ("OneCycle", "OneCycleLR")  # schedules that are at their highest rate for a moment only
STEADY = 0.25


@dataclass(frozen=True)
class Suggestion:
    """What a sweep found.

    Attributes:
        lr: The suggested rate; None where no rate made the loss fall.
        rates: The rates that were tried, in steps of equal ratio.
        losses: The loss of the batch after the step with each of them.
        smooth: The same without the noise of single batches.
        peaked: Whether the rate is for the peak of a schedule.
    """

    lr: float | None
    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    peaked: bool

    def plot(self, path: Path | None = None) -> "Figure":
        """Draws the loss against the learning rate, with the suggestion marked, into a PNG file too if one is named."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, ".", color="0.65", ms=4, label="one batch")
        axes.plot(self.rates, self.smooth, color="#0072B2", lw=2, label="smoothed")
        if self.lr is not None:
            height = float(np.interp(math.log(self.lr), np.log(self.rates), self.smooth))
            axes.axvline(self.lr, color="#D55E00", lw=1, ls="--", zorder=1)
            axes.plot(self.lr, height, "o", color="#D55E00", ms=8, label=f"suggestion: {self.lr:g}")
        top, low = self.smooth[:LEAST].max(), min(self.smooth.min(), self.losses.min())
        axes.set_ylim(low - 0.08 * (top - low), top + 0.5 * (top - low))
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axes.set_xlim(self.rates[0], self.rates[-1])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(edgecolor="none", framealpha=0.9, loc="lower left")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                figure.savefig(temporary, format="png")
        return figure


class LRSweep(TerminateOnNaN):
    """Takes each step with a higher rate than the one before, until the loss diverges.

    Lightning's own finder sets what the scheduler says, which warm-up and the `lr_scale` of a backbone change; here the
    rate is set after those, as the very last thing before the optimizer reads it.
    """

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        super().__init__(wait=True)
        self.planned = np.geomspace(lowest, highest, steps)
        self.losses: list[float] = []  # of the step with each planned rate, before it takes effect

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._began = trainer.global_step

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if len(self.losses) < LEAST:  # after that it is the rate that is too high
            super().on_before_backward(trainer, pl_module, loss)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = float(self.planned[trainer.global_step]) * group.get("lr_scale", 1.0)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._began:  # a part of a step
            return
        loss = float(outputs["loss"])
        if not math.isfinite(loss) or loss > DIVERGED * min([loss, *self.losses]):
            trainer.should_stop = True
        if math.isfinite(loss):
            self.losses.append(loss)


def find_lr(
    model: BaseTask,
    data: LightningDataModule,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 200,
    **options: Any,
) -> Suggestion:
    """Finds a learning rate by training a copy of a model for some steps, each with a higher rate.

    It suggests the middle of the valley, where the smoothed loss is lowest, as the peak of a OneCycleLR; for a schedule
    that stays at its rate for long, a quarter of it. (The rate of the steepest descent, which many finders suggest, was
    ten times too low for our recipes.) The model, its random numbers and the disk stay as they are.

    Args:
        model: The model, with the optimizer that it is to be trained with.
        data: What it is to be trained on.
        lowest: Rate of the first step.
        highest: Rate of the last step; the sweep ends before it where the loss diverges.
        steps: Number of rates.
        **options: Arguments for the Trainer, `accelerator` for example.

    Raises:
        ValueError: If nothing of the model can be trained, or the loss is not finite from the start.
    """
    sweep = LRSweep(lowest, highest, steps)
    short_fit(clone_model(model), data, steps, [sweep], **options)
    losses = np.array(sweep.losses[1:])  # a loss shows what the step before has done
    rates = sweep.planned[: len(losses)]
    if len(losses) < LEAST:
        raise ValueError(f"the loss diverges from the start, at a learning rate of {lowest:g}: look at data and model")
    smooth = smoothed(losses)
    scheduler = model.hparams["lr_scheduler"]
    peaked = scheduler is not None and scheduler["class_path"].rsplit(".", 1)[-1] in PEAKED
    falls = smooth[0] - smooth.min() > 0.05 * abs(smooth[0])
    lr = float(f"{valley_lr(rates, smooth) * (1 if peaked else STEADY):.1e}") if falls else None
    return Suggestion(lr, rates, losses, smooth, peaked)


def valley_lr(rates: NDArray[np.float64], smooth: NDArray[np.float64]) -> float:
    """The geometric middle of the rates around the lowest loss that keep nine tenths of its fall."""
    high = np.flatnonzero(smooth > smooth.min() + 0.1 * (smooth[0] - smooth.min()))
    lowest = int(smooth.argmin())
    first = high[high < lowest].max(initial=-1) + 1
    last = high[high > lowest].min(initial=len(smooth)) - 1
    return math.sqrt(rates[first] * rates[last])


def smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means under a bell around each loss; the divergence at the end is cut off, so that it spoils none before it."""
    level = np.minimum(losses, 1.5 * losses[:10].mean())
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / WIDTH) ** 2)
    means: NDArray[np.float64] = weights @ level / weights.sum(axis=1)
    return means
