"""The structure and the size of batches."""

from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn

from kindling.utils.shared_batches import synchronizes_batch_norm, trained_batch_norms
from kindling.utils.text import count_noun
from kindling.utils.trees import tree_leaves


def check_batches(model: nn.Module, trainer: Trainer) -> None:
    """Raise ValueError if a training batch has a single sample in a process, which has no variance for batch norm.

    Permanently frozen layers take any batch. Nothing is checked if the data module has no training set or batch size.
    """
    data: Any = getattr(trainer, "datamodule", None)
    devices = trainer.world_size
    norms, needed = trained_batch_norms(model), 2 if synchronizes_batch_norm(trainer) else 2 * devices
    if not norms or not hasattr(data, "train") or not hasattr(data, "batch_size"):
        return
    batch_size, samples = data.batch_size, len(data.train)
    if min(batch_size, samples) >= needed:
        return
    where = "in each training batch" + (" of each process" if needed > 2 else "")
    reason = f"--data.batch_size {batch_size} is too small"
    if batch_size >= needed:
        reason = f"got {count_noun(samples, 'training sample', 'training samples')} on {devices} devices"
    elif needed > 2:
        reason += f" for {devices} of them: use at least {needed}, or --trainer.sync_batchnorm true"
    raise ValueError(f"batch norm ({norms[0]}) needs at least 2 samples {where}: {reason}")


def as_pair(batch: Any, model: object) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch; raise ValueError if it has another structure."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    found = f"{len(batch)} items" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
    raise ValueError(
        f"{type(model).__name__} needs batches (inputs, targets), but the data module returns {found}: make each "
        "sample a pair; pass several inputs as a tuple or a dictionary, such as ((image, row), target)"
    )


def mixes(trainer: Trainer | None) -> bool:
    """Return whether the data module of a Trainer mixes training samples, whose targets then are shares of classes."""
    return bool(getattr(getattr(trainer, "datamodule", None), "mixing", None))


def batch_size(targets: Any) -> int:
    """Return the number of samples in a batch, by the first tensor among its targets."""
    return next((len(leaf) for leaf in tree_leaves(targets) if isinstance(leaf, Tensor) and leaf.ndim), 1)
