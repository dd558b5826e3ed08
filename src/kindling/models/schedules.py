"""Learning rate schedules: how a task's scheduler is stepped, warmed up and begun anew."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from typing_extensions import override

from kindling.utils.hyperparameters import Factory

BY_STEP = ("OneCycle", "OneCycleLR")  # stepped after each batch, and told the number of steps


class OneCycle(OneCycleLR):
    """torch's OneCycleLR whose peak is the learning rate of the optimizer.

    Args:
        optimizer: The optimizer.
        max_lr: Peak, where it is not the learning rate of the optimizer.
        total_steps: Steps of the whole cycle; those of the training by default.
        pct_start: Share of the cycle in which the learning rate rises.
        anneal_strategy: Whether it falls along a cosine or a line.
        cycle_momentum: Whether momentum falls while the learning rate rises.
        base_momentum: Momentum at the peak.
        max_momentum: Momentum at the beginning and the end.
        div_factor: Peak divided by the learning rate at the beginning.
        final_div_factor: Learning rate at the beginning divided by that at the end.
    """

    @override
    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | None = None,
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
            max_lr=[float(group["lr"]) for group in optimizer.param_groups] if max_lr is None else max_lr,
            total_steps=total_steps,
            pct_start=pct_start,
            anneal_strategy=anneal_strategy,
            cycle_momentum=cycle_momentum,
            base_momentum=base_momentum,
            max_momentum=max_momentum,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )


def scheduler_config(
    optimizer: Optimizer, factory: Factory, steps: Callable[[], int], every_n_epochs: int
) -> LRSchedulerConfigType:
    """Return a scheduler and when Lightning steps it.

    Args:
        optimizer: Whose learning rate it sets.
        factory: Class and arguments of the scheduler.
        steps: Returns the optimizer steps of the training, where a schedule needs their number.
        every_n_epochs: Epochs from one validation to the next.
    """
    name, init_args = factory["class_path"].rpartition(".")[2], dict(factory["init_args"])
    if name in BY_STEP and init_args.get("total_steps") is None:
        init_args["total_steps"] = steps()
    return {
        "scheduler": instantiate_class(optimizer, {**factory, "init_args": init_args}),
        "interval": "step" if name in BY_STEP else "epoch",
        # ReduceLROnPlateau steps where there is a validation, and waits where there is none.
        "monitor": "val/loss",
        "frequency": every_n_epochs if name == "ReduceLROnPlateau" else 1,
        "strict": False,
    }


@contextmanager
def scaled_rates(optimizer: Any, warmth: float) -> Iterator[None]:
    """Change the learning rates for one step: by the warm-up, and by the `lr_scale` of each group of parameters.

    The scheduler knows nothing of it, so that they go with any scheduler.

    Args:
        optimizer: The optimizer.
        warmth: Factor of the warm-up, up to 1.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= warmth * group.get("lr_scale", 1.0)
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def restart(checkpoint: dict[str, Any], optimizer: Optimizer, factory: Mapping[str, Any]) -> None:
    """Make a checkpoint begin its schedule anew; the optimizer keeps its momentum where it is of the same class.

    Args:
        checkpoint: Changed in place.
        optimizer: The new optimizer.
        factory: Class and arguments of the new optimizer.
    """
    state = optimizer.state_dict()
    if checkpoint["hyper_parameters"]["optimizer"]["class_path"] == factory["class_path"]:
        state["state"] = checkpoint["optimizer_states"][0]["state"]
    checkpoint["optimizer_states"] = [state]
    checkpoint["lr_schedulers"] = []
