"""The structure and the size of batches."""

from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn

from kindling.utils.shared_batches import trained_batch_norms
from kindling.utils.text import count_noun
from kindling.utils.trees import tree_leaves


def check_batches(model: nn.Module, batch_size: int, samples: int, devices: int, synchronized: bool) -> None:
    """Raise ValueError if a training batch has a single sample in a process, which has no variance for batch norm.

    Args:
        model: The model; permanently frozen layers take any batch.
        batch_size: Number of samples of a batch over all devices.
        samples: Number of training samples.
        devices: Number of devices.
        synchronized: Whether batch norm has the statistics of all devices.
    """
    norms, needed = trained_batch_norms(model), 2 if synchronized else 2 * devices
    if not norms or min(batch_size, samples) >= needed:
        return
    where = "in each training batch" + (" of each process" if needed > 2 else "")
    reason = f"--data.batch_size {batch_size} is too small"
    if batch_size >= needed:
        reason = f"got {count_noun(samples, 'training sample', 'training samples')} on {devices} devices"
    elif needed > 2:
        reason += f" for {devices} of them: use at least {needed}, or --trainer.sync_batchnorm true"
    raise ValueError(f"batch norm ({norms[0]}) needs at least 2 samples {where}: {reason}")


def as_pair(batch: Any, model: object) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch.

    Raises:
        ValueError: If the batch has another structure.
    """
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
