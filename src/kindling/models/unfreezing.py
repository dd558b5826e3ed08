"""Training in two phases: with a part of the weights frozen, then with all of them."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy


def has_whole_weights(trainer: Trainer | None) -> bool:
    """Return whether each process has all weights: sharded ones are gathered for a whole `forward` only."""
    return trainer is None or trainer.world_size == 1 or isinstance(trainer.strategy, DDPStrategy)


def frozen_steps(trainer: Trainer, unfreeze_epoch: int | None, start: int) -> tuple[float, int]:
    """Return the optimizer steps of the frozen phase after step `start`, and those of an epoch."""
    trainer.fit_loop.setup_data()  # sets `num_training_batches`
    steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    steps = trainer.estimated_stepping_batches
    if unfreeze_epoch is not None:
        steps = min(steps, unfreeze_epoch * steps_per_epoch)
    return steps - start, steps_per_epoch


def train_unfrozen(trainer: Trainer) -> None:
    """Train weights that were unfrozen after the start: with a new optimizer that keeps the momentum of the others."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        # DistributedDataParallel only averages gradients of weights that were trainable at its construction.
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()
    (before,) = trainer.optimizers
    strategy.setup_optimizers(trainer)
    trainer.optimizers[0].state.update(before.state)
