"""Whether the training of a checkpoint is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kindling.runs.folders import is_last, run_folder_of
from kindling.runs.metadata import RunMetadata
from kindling.utils.text import count_noun

STOPPERS = ("RunEarlyStopping{", "EarlyStopping{")  # prefixes of the keys of states; the latter is Lightning's


class CompleteError(ValueError):
    """Nothing is left to train or to test."""


def is_training_complete(
    checkpoint: Path, stored: Mapping[str, Any], config: Mapping[str, Any], tests: bool, is_auto: bool
) -> bool:
    """Return whether a checkpoint is fully trained, so that only the plots and the test remain.

    This happens if a run is killed between its last epoch and the end of its test.

    Args:
        checkpoint: Checkpoint that `fit` resumes.
        stored: Contents of the checkpoint.
        config: Options of `fit`.
        tests: Whether `fit` tests the best checkpoint at the end.
        is_auto: Whether a run that early stopping has ended is complete too; otherwise it is trained on.

    Raises:
        CompleteError: If nothing is left to do.
        ValueError: If training can't be resumed from the checkpoint.
    """
    trainer = config["trainer"]
    if "optimizer_states" not in stored:
        raise ValueError(f"{checkpoint} contains only weights: training can't be resumed from it")
    epochs, steps = epochs_completed(stored), stored["global_step"]
    all_epochs = 0 <= (trainer["max_epochs"] or -1) <= epochs
    all_steps = 0 <= trainer["max_steps"] <= steps
    has_stopped = stopped_early(stored, config["early_stopping"]["patience"])
    if is_last(checkpoint) and not RunMetadata.read(run_folder_of(checkpoint)).is_complete(tests):
        return all_epochs or all_steps or has_stopped
    reasons = [
        (all_epochs, f"already trained for {count_noun(epochs, 'epoch', 'epochs')}", "--trainer.max_epochs"),
        (all_steps, f"already trained for {count_noun(steps, 'step', 'steps')}", "--trainer.max_steps"),
        (is_auto and has_stopped, "stopped early", "--early_stopping.patience"),
    ]
    for is_complete, state, option in reasons:
        if is_complete:
            raise CompleteError(f"{checkpoint} was {state}; raise {option} to continue")
    return False


def stopped_early(stored: Mapping[str, Any], patience: int | None) -> bool:
    """Return whether early stopping ended the training of a checkpoint, and still would with this patience."""
    stoppers = [state for name, state in stored["callbacks"].items() if name.startswith(STOPPERS)]
    return patience is not None and any(state["wait_count"] >= patience for state in stoppers)


def epochs_completed(stored: Mapping[str, Any]) -> int:
    """Return the number of epochs the checkpoint was trained for; 0 if not recorded."""
    loops = stored.get("loops")
    return int(loops["fit_loop"]["epoch_progress"]["current"]["processed"]) if loops else 0
