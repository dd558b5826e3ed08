"""The position within an epoch: how a checkpoint stores it, and how training resumes from it.

Lightning resumes with the next batch, without a validation in between, if its counters are those of a checkpoint saved
in a hook of a batch. After N batches of epoch E, S of all batches so far have stepped an optimizer:

| counters                           | batches started | completed | epochs started | processed | batches that stepped |
|------------------------------------|-----------------|-----------|----------------|-----------|----------------------|
| saved in a hook of batch N         | N               | N - 1     | E              | E - 1     | S - 1                |
| saved between two batches          | N               | N         | E              | E - 1     | S                    |
| saved when training stops          | N               | N         | E              | E         | S                    |
| `mark_within_epoch`                | N               | N - 1     | E              | E - 1     | S - 1                |
| `_resume_epoch`: D batches done    | D               | D - 1     | E              | E - 1     | S - 1                |
| `_resume_epoch`: epoch starts over | N               | N         | E - 1          | E - 1     | S                    |

Of batches, as many are ready and processed as started; of epochs, E are ready and E - 1 completed. D differs from N if
the batch size has changed. If D is within an accumulated step, S batches have stepped.
"""

import logging
import math
from typing import Any

from lightning.pytorch import Trainer

from kindling.data.datamodule import BaseDataModule
from kindling.data.loaders import ResumableLoader
from kindling.data.samplers import EpochSampler, TrainingBatches
from kindling.data.streaming.shards import ShardDataset

logger = logging.getLogger(__name__)

Loops = dict[str, Any]  # the state of Lightning's fit loop in a checkpoint
COUNTERS = ("total", "current")


def position(loader: object) -> dict[str, int]:
    """Return the position within the epoch; for a loader that can't resume within an epoch, one that never matches.

    The position counts samples of all processes, so it is valid for any batch size and number of devices.
    """
    if not (isinstance(loader, ResumableLoader) and isinstance(loader.sampler, EpochSampler)):
        return {"samples": 0, "of": 0, "seed": 0}
    dataset: Any = loader.dataset
    place = {"samples": loader.samples, "of": len(loader.sampler), "seed": loader.sampler.seed}
    return place | ({"window": dataset.window} if isinstance(dataset, ShardDataset) else {})


def repetition(trainer: Trainer) -> dict[str, int]:
    """Return how often an epoch goes through the training set, and why; empty if that is unknown."""
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    if not (isinstance(sampler, EpochSampler) and isinstance(trainer.datamodule, BaseDataModule)):  # type: ignore[attr-defined]
        return {}
    return _reasons(trainer.datamodule) | {"passes": sampler.passes}  # type: ignore[attr-defined]


def _reasons(data: BaseDataModule) -> dict[str, int]:
    return {"min_batches": data.min_batches, "samples": len(data.train)}


def is_within_epoch(trainer: Trainer) -> bool:
    """Return whether training is within an epoch that has batches left."""
    return trainer.state.fn == "fit" and trainer.fit_loop.batch_idx >= 0 and not trainer.is_last_batch


def mark_within_epoch(loops: Loops, batch_is_over: bool) -> None:
    """Change the state of the loops, saved within an epoch, so that Lightning resumes with the next batch.

    Lightning does so if the state looks like one between a batch and its validation, and skips that validation. If
    training is about to stop, the epoch is already marked as processed, which is undone.

    Args:
        loops: Changed in place.
        batch_is_over: Whether the state was saved after the batch rather than in one of its hooks.
    """
    batch, epoch = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    for counter in COUNTERS:
        batch[counter]["completed"] = batch[counter]["processed"] - 1
        epoch[counter]["processed"] = epoch[counter]["completed"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= batch_is_over


def restore_position(trainer: Trainer, checkpoint: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Change a checkpoint so that training resumes where it was saved, or warn that the epoch starts over.

    Args:
        trainer: The Trainer, with the training data.
        checkpoint: Changed in place.
        stored: State of `ExactResume` in the checkpoint; empty if another Trainer wrote it.

    Returns:
        The state. Its position is empty if an epoch starts.
    """
    data, repeated = trainer.datamodule, stored.get("repetition")  # type: ignore[attr-defined]
    if repeated and isinstance(data, BaseDataModule) and repeated | _reasons(data) == repeated:
        data.passes = repeated["passes"]  # also with another batch size
    trainer.fit_loop.setup_data()  # sets the number of batches
    if (processes := len(stored.get("processes", ()))) > 1 and not stored.get("is_global"):
        logger.warning(
            f"--data.batch_size now counts the samples of all processes: multiply it by {processes} for batches of the "
            "size before"
        )
    if not stored.get("position") or _resume_epoch(trainer, checkpoint["loops"]["fit_loop"], stored["position"]):
        return stored
    logger.warning(
        f"epoch {checkpoint['epoch'] + 1} starts over: the training data, its order or the batch limits have changed "
        "since the checkpoint was saved"
    )
    return stored | {"position": {}}


def _resume_epoch(trainer: Trainer, loops: Loops, stored: dict[str, int]) -> bool:
    """Make loops saved within an epoch resume there with the remaining samples, in batches of the current size.

    Returns False if the order of the samples has changed, or too few are left: then the epoch starts over.
    """
    loader = trainer.train_dataloader
    left = _batches_left(trainer, loader, stored["samples"])
    if position(loader) | {"samples": stored["samples"]} != stored or not left:
        epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        for counter in COUNTERS:
            epoch[counter]["started"] = epoch[counter]["ready"] - 1
            batch[counter]["completed"] = batch[counter]["processed"]
        batch["is_last_batch"] = True
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        return False
    done = int(trainer.num_training_batches) - left
    current = loops["epoch_loop.batch_progress"]["current"]
    current.update(ready=done, started=done, processed=done, completed=done - 1)
    if done % trainer.accumulate_grad_batches:  # else Lightning counts the step itself
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    return True


def _batches_left(trainer: Trainer, loader: Any, samples: int) -> int:
    """Return the number of batches left after some samples of an epoch; 0 if too few samples are left for one."""
    batches = getattr(loader, "batch_sampler", None)
    if not isinstance(batches, TrainingBatches) or not isinstance(loader.sampler, EpochSampler):
        return 0
    left = len(loader.sampler) - samples
    if left < min(batches.smallest, batches.batch_size):
        return 0
    count, limit = batches.count(left), int(trainer.num_training_batches)
    return max(0, min(count, math.ceil(limit - samples / batches.batch_size))) if limit < len(loader) else count


def step_offset(trainer: Trainer, checkpoint: dict[str, Any]) -> int:
    """Return the steps that the epochs so far would have taken with the current batches, minus the steps taken.

    It is not 0 if training resumes with another batch size, for example, and is limited by epochs.
    """
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    if trainer.estimated_stepping_batches in (trainer.max_steps, math.inf) or batches == math.inf:
        return 0
    loops: Loops = checkpoint["loops"]["fit_loop"]
    epoch, done = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]["ready"]
    steps_per_epoch = math.ceil(batches / accumulated)
    steps: int = epoch["processed"] * steps_per_epoch
    if epoch["started"] > epoch["processed"]:
        steps += steps_per_epoch if done >= batches else done // accumulated
    return steps - int(checkpoint["global_step"])
