"""The position within an epoch: how a checkpoint stores it, and how training continues from there."""

import logging
import math
from typing import Any

from lightning.pytorch import Trainer

from kindling.data.loading import EpochSampler, ResumableLoader, TrainingBatches

logger = logging.getLogger(__name__)


Loops = dict[str, Any]  # the state of Lightning's fit loop, as a checkpoint stores it
PARTS = ("total", "current")


def position(loader: object) -> dict[str, int]:
    """Return how far an epoch has come; a loader that can't continue within an epoch gives a position that no data has.

    Samples are counted, of all processes together: they mean the same with another batch size or number of devices.
    """
    if not (isinstance(loader, ResumableLoader) and isinstance(loader.sampler, EpochSampler)):
        return {"samples": 0, "of": 0, "seed": 0}
    return {"samples": loader.samples, "of": len(loader.dataset), "seed": loader.sampler.seed}  # type: ignore[arg-type]


def is_within_epoch(trainer: Trainer) -> bool:
    """Return whether an epoch has begun that has batches left."""
    return trainer.state.fn == "fit" and trainer.fit_loop.batch_idx >= 0 and not trainer.is_last_batch


def mark_within_epoch(loops: Loops, batch_is_over: bool) -> None:
    """Make the state of the loops, saved within an epoch, one that Lightning continues from with the next batch.

    That is the state after a batch, before its validation, which Lightning takes as done. Where training is about to
    stop, the epoch counts as processed by now: that is undone.

    Args:
        loops: Changed in place.
        batch_is_over: Whether it was saved after all that belongs to the batch, and not by a hook of the batch.
    """
    batch, epoch = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    for part in PARTS:
        batch[part]["completed"] = batch[part]["processed"] - 1
        epoch[part]["processed"] = epoch[part]["completed"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= batch_is_over


def restore_position(trainer: Trainer, checkpoint: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Make a checkpoint continue where it was saved, or say that the epoch begins anew.

    Args:
        trainer: With the data to train on.
        checkpoint: Changed in place.
        stored: What `ExactResume` has put into it; nothing in a checkpoint of another Trainer.

    Returns:
        The same as it is put in now. The position is empty where an epoch begins.
    """
    trainer.fit_loop.setup_data()  # says how many batches there are
    if "torch" in stored:
        stored = _from_old(checkpoint, stored, trainer.train_dataloader)
    if not stored.get("position") or _continue_epoch(trainer, checkpoint["loops"]["fit_loop"], stored["position"]):
        return stored
    logger.warning(
        f"epoch {checkpoint['epoch'] + 1} starts over: the training data, its order or its limits have changed since"
        " the checkpoint was saved within it"
    )
    return stored | {"position": {}}


def _from_old(checkpoint: dict[str, Any], stored: dict[str, Any], loader: Any) -> dict[str, Any]:
    """Return what an earlier version stored, which counted batches and knew one process, as it is stored now."""
    batch_size = checkpoint.get("datamodule_hyper_parameters", {}).get("batch_size", 0)
    samples = stored["batches_done"] * batch_size * getattr(getattr(loader, "sampler", None), "num_replicas", 1)
    return {
        "position": position(loader) | {"samples": samples} if samples else {},
        "processes": [{"random": stored, "metrics": {}}],
        "callback_metrics": {},
    }


def _continue_epoch(trainer: Trainer, loops: Loops, stored: dict[str, int]) -> bool:
    """Make loops saved within an epoch continue there with the samples that are left, in batches as they are now.

    Returns:
        False if the order of the samples is another one now, or too few are left: then the epoch begins anew.
    """
    loader = trainer.train_dataloader
    left = _batches_left(trainer, loader, stored["samples"])
    if position(loader) | {"samples": stored["samples"]} != stored or not left:
        epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        for part in PARTS:
            epoch[part]["started"] = epoch[part]["ready"] - 1
            batch[part]["completed"] = batch[part]["processed"]
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
    """Return how many batches of an epoch are left after so many samples; 0 if one of them would be a single sample."""
    batches = getattr(loader, "batch_sampler", None)
    if not isinstance(batches, TrainingBatches) or not isinstance(loader.sampler, EpochSampler):
        return 0
    share = math.ceil((len(loader.dataset) - samples) / loader.sampler.num_replicas)
    if share == 1 < batches.batch_size:
        return 0
    left, together = batches.count(max(0, share)), batches.batch_size * loader.sampler.num_replicas
    limit = int(trainer.num_training_batches)
    return max(0, min(left, math.ceil(limit - samples / together))) if limit < len(loader) else left


def step_offset(trainer: Trainer, checkpoint: dict[str, Any]) -> int:
    """Return how many more steps the epochs so far would have had with batches as they are now.

    It is not 0 where training resumes with another batch size, for example, and is limited by its epochs.
    """
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    if trainer.estimated_stepping_batches in (trainer.max_steps, math.inf) or batches == math.inf:
        return 0
    loops: Loops = checkpoint["loops"]["fit_loop"]
    epoch, done = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]["ready"]
    of_an_epoch = math.ceil(batches / accumulated)
    steps: int = epoch["processed"] * of_an_epoch
    if epoch["started"] > epoch["processed"]:
        steps += of_an_epoch if done >= batches else done // accumulated
    return steps - int(checkpoint["global_step"])
