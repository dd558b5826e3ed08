"""State in a checkpoint that resumes a run bit-identically: that of each process, and those of callbacks."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from kindling.data.loaders import ResumableLoader
from kindling.models.metrics_module import metric_states, restore_metrics
from kindling.training.epoch_position import is_within_epoch, position, repetition
from kindling.training.moved_checkpoints import move_best, save_inside_copy
from kindling.training.random_state import gather_states, random_state, restore_random_state


def collect_state(trainer: Trainer, model: LightningModule) -> dict[str, Any]:
    """Return the position in the epoch, and the random state and metrics of each process; all must call it."""
    within = is_within_epoch(trainer)
    state = {"random": random_state(), "metrics": metric_states(model) if within else {}}
    return {
        "position": position(trainer.train_dataloader) if within else {},
        "repetition": repetition(trainer),
        "processes": gather_states(state),
        "is_global": True,  # whether the batch size counts the samples of all processes
        "callback_metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
    }


def restore_state(trainer: Trainer, model: LightningModule, state: dict[str, Any]) -> None:
    """Restore the result of `collect_state`."""
    rank, processes = trainer.global_rank, state["processes"]
    if rank < len(processes):
        restore_random_state(processes[rank]["random"])
    trainer.callback_metrics.update(state["callback_metrics"])
    if state["position"]:
        assert isinstance(trainer.train_dataloader, ResumableLoader)
        trainer.train_dataloader.sampler.start = state["position"]["samples"]
        restore_metrics(model, [process["metrics"] for process in processes[rank :: trainer.world_size]])


def adapt_callbacks(trainer: Trainer, states: dict[str, Any], run_folder: Path, continues: bool, is_copy: bool) -> None:
    """Adapt the states of callbacks in a checkpoint, by their keys, to a resumed run.

    Args:
        trainer: The Trainer.
        states: Changed in place.
        run_folder: The run folder.
        continues: Whether the run continues in its folder, rather than start from the checkpoint of another one.
        is_copy: Whether the run was last trained in another folder.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = states.get(callback.state_key)
        if state and isinstance(callback, Timer):
            state.clear()  # its limit applies to each session
        if state and isinstance(callback, EarlyStopping):
            state["patience"] = callback.patience
        if state and isinstance(callback, ModelCheckpoint):
            callback.current_score = state["current_score"]
            if continues:
                save_inside_copy(callback, state["dirpath"] or "", run_folder, is_copy)
            move_best(state, str(callback.dirpath), continues)
