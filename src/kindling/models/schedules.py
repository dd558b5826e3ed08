"""Learning rate schedules: how a task configures, warms up and restarts its scheduler."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR
from typing_extensions import override

from kindling.utils.hyperparameters import Factory, is_same_factory

if TYPE_CHECKING:
    from kindling.models.task import BaseTask


class OneCycle(OneCycleLR):
    """torch's OneCycleLR with the learning rate of the optimizer as its peak.

    Args:
        optimizer: The optimizer.
        total_steps: Steps of the whole cycle; by default all steps of the run.
        pct_start: Fraction of the cycle in which the learning rate rises.
        anneal_strategy: Whether the learning rate falls along a cosine or a line.
        cycle_momentum: Whether momentum falls while the learning rate rises.
        base_momentum: Momentum at the peak.
        max_momentum: Momentum at the beginning and the end.
        div_factor: Peak divided by the initial learning rate.
        final_div_factor: Initial learning rate divided by the final one.
    """

    @override
    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        super().__init__(
            optimizer,
            max_lr=[float(group["lr"]) for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=pct_start,
            anneal_strategy=anneal_strategy,
            cycle_momentum=cycle_momentum,
            base_momentum=base_momentum,
            max_momentum=max_momentum,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )


def needs_metric(class_path: str) -> bool:
    """Return whether the `step` of a scheduler takes a metric, as that of ReduceLROnPlateau."""
    return "metrics" in signature(resolve_name(class_path).step).parameters


def scheduler_config(
    optimizer: Optimizer, factory: Factory, steps: Callable[[], int], every_n_epochs: int
) -> LRSchedulerConfigType:
    """Return a scheduler and the settings with which Lightning steps it.

    Args:
        optimizer: The optimizer.
        factory: Class and arguments of the scheduler.
        steps: Returns the number of optimizer steps; called only for schedules that need it.
        every_n_epochs: Number of epochs between validations.
    """
    kind, init_args = resolve_name(factory["class_path"]), dict(factory["init_args"])
    if issubclass(kind, OneCycleLR) and init_args.get("total_steps") is None:
        init_args["total_steps"] = steps()
    is_by_metric = needs_metric(factory["class_path"])
    return {
        "scheduler": kind(optimizer, **init_args),
        "interval": "step" if issubclass(kind, OneCycleLR | CyclicLR) else "epoch",
        # A schedule that needs a metric steps after validations only, and never if `val/loss` is not logged.
        "reduce_on_plateau": is_by_metric,
        "monitor": "val/loss",
        "frequency": every_n_epochs if is_by_metric else 1,
        "strict": False,
    }


@contextmanager
def scaled_learning_rates(optimizer: Any, warmup_factor: float) -> Iterator[None]:
    """Scale the learning rates within the context by the warm-up and the `lr_scale` of each parameter group.

    The scheduler never sees the scaled rates, so this works with any scheduler.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= warmup_factor * group.get("lr_scale", 1.0)
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def has_schedule_changed(model: "BaseTask", checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a resumed run has another optimizer, schedule or number of steps than its checkpoint."""
    stored = checkpoint["hyper_parameters"]
    for name in ("optimizer", "lr_scheduler"):
        current = model.training_options[name]
        if not is_same_factory(stored.get(name, current), current):
            return True
    now = checkpoint["global_step"] + model.step_offset
    limited = [schedule for schedule in checkpoint["lr_schedulers"] if "total_steps" in schedule]  # as of OneCycleLR
    return any(each["total_steps"] != model.schedule_steps(now - each["last_epoch"]) for each in limited)


def restart_schedule(model: "BaseTask", checkpoint: dict[str, Any]) -> None:
    """Restart the schedule of a resumed run over the remaining steps, by changing the checkpoint before it is loaded.

    Momentum is kept if the class of the optimizer is the same.
    """
    model.schedule_start = checkpoint["global_step"]
    configured, factory = model.configure_optimizers(), model.training_options["optimizer"]
    state = (configured["optimizer"] if isinstance(configured, dict) else configured).state_dict()
    if checkpoint["hyper_parameters"].get("optimizer", factory)["class_path"] == factory["class_path"]:
        state["state"] = checkpoint["optimizer_states"][0]["state"]
    checkpoint["optimizer_states"] = [state]
    checkpoint["lr_schedulers"] = []
