"""Infers model arguments from training samples if the data module does not provide them."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NoReturn, Self, TypeVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kindling.utils.files import in_turns
from kindling.utils.text import shorten


class UnknownShapeError(ValueError):
    """A model needs its input shape, which is not known."""


class UnknownShape(tuple[int, ...]):
    """Placeholder for an unknown input shape: false, and raises `UnknownShapeError` when a dimension is read."""

    owner = "the model"  # name of the class whose shape it is

    @classmethod
    def of(cls, owner: object) -> Self:
        """Return a placeholder for the shape of a model."""
        shape = cls()
        shape.owner = type(owner).__name__
        return shape

    def _fail(self, *_: object) -> NoReturn:
        raise UnknownShapeError(
            f"{self.owner} needs input_shape, the shape of one sample, which its data module does not provide: add "
            "--model.input_shape SHAPE, such as '[3, 32, 32]', or set input_shape in the data module"
        )

    __iter__ = __getitem__ = __len__ = _fail

    def __bool__(self) -> bool:
        return False


M = TypeVar("M", bound=LightningModule)


def create_with_inferred_shape(create: Callable[..., M], data: LightningDataModule | None) -> M:
    """Create a model, and create it again with a shape inferred from the data if it lacks one that it needs.

    `create` takes `input_shape` as a keyword argument. If the shape can't be inferred, UnknownShapeError is raised.
    """
    state = torch.get_rng_state()
    model = None
    with suppress(UnknownShapeError):
        model = create()
    if model is not None and not getattr(model, "lacks_shape", False):
        return model
    known = infer_arguments(data, ["input_shape"]) if data else {}
    if known or model is None:
        torch.set_rng_state(state)  # the first attempt has drawn initial weights
        model = create(**known)  # raises UnknownShapeError again if the shape is still unknown
    return model


def infer_arguments(data: LightningDataModule, names: Iterable[str]) -> dict[str, Any]:
    """Return those of some model arguments that can be inferred from the training samples.

    `input_shape` is the shape of the first, the middle and the last sample, if all three agree. `num_classes` and
    `class_names` come from the `classes` of the dataset, or from its integer `targets` or `labels`. A copy of the data
    module is set up, and the random state is left unchanged.
    """
    names = list(names)
    if not is_overridden("train_dataloader", data, LightningDataModule):
        return {}
    try:
        with isolate_rng():
            probe = copy.deepcopy(data)  # Lightning sets up the data module itself, once
            with in_turns():  # Lightning connects the processes later, and then calls it in one of them
                probe.prepare_data()
            probe.setup("fit")
            loader = probe.train_dataloader()
            shapes = {_input_shape(batch) for batch in _small_batches(loader)}
    except (AttributeError, TypeError) as error:  # for example a data loader that needs the Trainer
        options = " ".join(f"--model.{name} VALUE" for name in names if name != "class_names")
        reason = shorten(f"{type(error).__name__}: {error}", 100)
        raise ValueError(f"can't read a sample from {type(data).__name__} ({reason}): add {options}") from error
    if not isinstance(loader, DataLoader):
        return {}
    classes = _attribute(loader.dataset, "classes")
    classes = tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()
    found = {
        "input_shape": shapes.pop() if len(shapes) == 1 else None,
        "num_classes": len(classes) or _count_classes(loader.dataset),
        "class_names": classes,
    }
    return {name: found[name] for name in names if found.get(name)}


def _small_batches(loader: Any) -> Iterator[Any]:
    """Return an iterator over three single-sample batches; for a stream its first batch, for other loaders nothing."""
    if not isinstance(loader, DataLoader):
        return iter(())
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) or loader.batch_sampler is None:  # whose samples may be batches
        return islice(loader, 1)
    if not len(dataset):
        return iter(())
    rows = [[row] for row in {0, len(dataset) // 2, len(dataset) - 1}]
    if hasattr(dataset, "__getitems__"):
        return (loader.collate_fn(dataset.__getitems__(row)) for row in rows)
    return (loader.collate_fn([dataset[row]]) for (row,) in rows)


def _input_shape(batch: Any) -> tuple[int, ...] | None:
    """Return the shape of a sample in a batch (inputs (N, ...), targets); None for other batches."""
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else None


def _attribute(dataset: Any, *names: str) -> Any:
    """Return the first of some attributes of a dataset, or of the one that it wraps (as Subset does); else None."""
    found = [getattr(dataset, name) for name in names if hasattr(dataset, name)]
    if found or not hasattr(dataset, "dataset"):
        return found[0] if found else None
    return _attribute(dataset.dataset, *names)


def _count_classes(dataset: Any) -> int | None:
    """Return the largest label plus one, or the number of classes if each sample has a float for each; else None."""
    tensors = _attribute(dataset, "tensors")  # of a TensorDataset
    targets = tensors[1] if tensors and len(tensors) == 2 else _attribute(dataset, "labels", "targets")
    try:
        targets = None if targets is None else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):  # names, boxes or masks
        return None
    if targets is not None and targets.ndim == 2 and targets.is_floating_point():
        return targets.shape[1]
    if targets is None or targets.ndim != 1 or not len(targets) or targets.is_floating_point():
        return None
    return int(targets.max()) + 1
