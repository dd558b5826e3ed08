"""The learning-rate finder: trains with a learning rate that grows from step to step."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from kindling.models.task import BaseTask
from kindling.runs.plots import PALETTE, save
from kindling.training.terminate_on_nan import TerminateOnNaN
from kindling.tuning.short_fit import clone_model, short_fit

SMOOTHING_STEPS = 6  # standard deviation of the Gaussian that smooths the losses
MIN_LOSSES = 30  # fewer do not make a curve
DIVERGENCE_FACTOR = 4.0  # the sweep stops at this multiple of the lowest loss,
RECENT_LOSSES = 5  # both are medians of this many losses, since the loss of a single small batch is noisy
PEAKED_SCHEDULES = ("OneCycle", "OneCycleLR")  # at their highest rate only for a moment
STEADY_FACTOR = 0.25  # of the suggested peak, for schedules that stay at their highest rate


@dataclass(frozen=True)
class Suggestion:
    """A suggested learning rate and the sweep behind it.

    Attributes:
        lr: The suggested learning rate; None if no rate reduced the loss.
        rates: The rates of the sweep, in steps of equal ratio.
        losses: The training loss after the step with each rate.
        smooth: The smoothed losses.
        peaked: Whether `lr` is the peak of a schedule.
    """

    lr: float | None
    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    peaked: bool

    def plot(self, path: Path | None = None) -> Figure:
        """Plot the loss against the learning rate, with the suggestion marked; write a PNG file if `path` is given."""
        figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, ".", color="0.65", ms=4, label="one batch")
        axes.plot(self.rates, self.smooth, color=PALETTE[0], lw=2, label="smoothed")
        if self.lr is not None:
            height = float(np.interp(math.log(self.lr), np.log(self.rates), self.smooth))
            axes.axvline(self.lr, color=PALETTE[1], lw=1, ls="--", zorder=1)
            axes.plot(self.lr, height, "o", color=PALETTE[1], ms=8, label=f"suggestion: {self.lr:g}")
        top, low = self.smooth[:MIN_LOSSES].max(), min(self.smooth.min(), self.losses.min())
        axes.set_ylim(low - 0.08 * (top - low), top + 0.5 * (top - low))
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axes.set_xlim(self.rates[0], self.rates[-1])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(edgecolor="none", framealpha=0.9, loc="lower left")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(figure, path)
        return figure


class LRSweep(TerminateOnNaN):
    """Raises the learning rate from step to step until the loss diverges.

    Lightning's finder sets the rate of the scheduler, which warm-up and the `lr_scale` of a backbone then change; this
    callback sets the rate after them, immediately before the optimizer step.
    """

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        super().__init__(wait=True)
        self.rates = np.geomspace(lowest, highest, steps)
        self.losses: list[float] = []  # before the step with each rate
        self._lowest = math.inf

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._step = trainer.global_step

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if len(self.losses) < MIN_LOSSES:  # later, the rate is too high
            super().on_before_backward(trainer, pl_module, loss)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = float(self.rates[trainer.global_step]) * group.get("lr_scale", 1.0)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradient accumulation
            return
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            trainer.should_stop = True
            return
        self.losses.append(loss)
        if len(self.losses) >= RECENT_LOSSES:
            recent = float(np.median(self.losses[-RECENT_LOSSES:]))
            self._lowest = min(self._lowest, recent)
            if recent > DIVERGENCE_FACTOR * self._lowest:
                trainer.should_stop = True


def find_lr(
    model: BaseTask,
    data: LightningDataModule,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 200,
    **options: Any,
) -> Suggestion:
    """Suggest a learning rate by training a copy of a model with a rate that grows from step to step.

    The suggestion is the middle of the valley of the smoothed loss for a schedule with a short peak, such as OneCycle,
    and a quarter of it for others. (The rate of the steepest descent, which many finders suggest, was ten times too
    low for Kindling's recipes.) The model and the random state are left unchanged; no files are written.

    Args:
        model: The model, with its optimizer and schedule.
        data: The data module.
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step, unless the loss diverges before.
        steps: Number of steps.
        **options: Arguments of the Trainer, such as `accelerator`.

    Raises:
        ValueError: If the model has nothing to train, or the loss diverges from the start.
    """
    sweep = LRSweep(lowest, highest, steps)
    short_fit(clone_model(model), data, steps, [sweep], "trying learning rates", **options)
    losses = np.array(sweep.losses[1:])  # each loss is the result of the step before
    rates = sweep.rates[: len(losses)]
    if len(losses) < MIN_LOSSES:
        raise ValueError(f"the loss diverges from the start, at a learning rate of {lowest:g}: check data and model")
    smooth = smooth_losses(losses)
    scheduler = model.training_options["lr_scheduler"]
    peaked = scheduler is not None and scheduler["class_path"].rsplit(".", 1)[-1] in PEAKED_SCHEDULES
    lr = None
    if smooth[0] - smooth.min() > 0.05 * abs(smooth[0]):
        lr = float(f"{valley_lr(rates, smooth) * (1 if peaked else STEADY_FACTOR):.1e}")
    return Suggestion(lr, rates, losses, smooth, peaked)


def valley_lr(rates: NDArray[np.float64], smooth: NDArray[np.float64]) -> float:
    """Return the geometric middle of the rates around the minimum with at least 90% of the maximal loss reduction."""
    high = np.flatnonzero(smooth > smooth.min() + 0.1 * (smooth[0] - smooth.min()))
    lowest = int(smooth.argmin())
    first = high[high < lowest].max(initial=-1) + 1
    last = high[high > lowest].min(initial=len(smooth)) - 1
    return math.sqrt(rates[first] * rates[last])


def smooth_losses(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the losses smoothed with a Gaussian, after clipping the divergence at the end."""
    clipped = np.minimum(losses, 1.5 * losses[:10].mean())
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / SMOOTHING_STEPS) ** 2)
    means: NDArray[np.float64] = weights @ clipped / weights.sum(axis=1)
    return means
