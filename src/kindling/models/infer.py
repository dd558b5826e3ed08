"""Arguments of a model that are read from training samples where the data module does not have them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn, Self, TypeVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kindling.utils.text import shorten


class UnknownShapeError(ValueError):
    """A model needs the shape of its inputs, which is not known."""


class UnknownShape(tuple[int, ...]):
    """The shape of inputs that is not known: it is false, and whoever asks for a dimension gets `UnknownShapeError`."""

    owner = "the model"  # name of the class that lacks it

    @classmethod
    def of(cls, owner: object) -> Self:
        """Return the unknown shape of a model."""
        shape = cls()
        shape.owner = type(owner).__name__
        return shape

    def _fail(self, *_: object) -> NoReturn:
        raise UnknownShapeError(
            f"{self.owner} needs input_shape, the shape of one sample, which its data does not tell: add "
            "--model.input_shape SHAPE, such as '[3, 32, 32]', or set input_shape in the data module"
        )

    __iter__ = __getitem__ = __len__ = _fail

    def __bool__(self) -> bool:
        return False


M = TypeVar("M", bound=LightningModule)


def with_shape(create: Callable[..., M], data: LightningDataModule | None) -> M:
    """Create a model; where it needs the shape of its inputs and does not have it, read it from its data.

    Args:
        create: Creates the model; it takes `input_shape` as a keyword.
        data: Its data.

    Raises:
        UnknownShapeError: If the data does not tell it either.
    """
    state = torch.get_rng_state()
    try:
        model = create()
    except UnknownShapeError:
        known = infer_arguments(data, ["input_shape"]) if data else {}
        if not known:
            raise
    else:
        known = infer_arguments(data, ["input_shape"]) if data and getattr(model, "lacks_shape", False) else {}
        if not known:
            return model
    torch.set_rng_state(state)  # the first attempt has drawn weights
    return create(**known)


def infer_arguments(data: LightningDataModule, names: Iterable[str]) -> dict[str, Any]:
    """Return those of some arguments of a model that the training samples of a data module tell.

    `input_shape` is the shape of the first, the middle and the last sample in a batch, if it is the same for all three.
    `num_classes` and `class_names` come from the `classes` of the dataset, or from its integer `targets` or `labels`.

    Args:
        data: The data module; it is set up, and random numbers stay as they are.
        names: Names of the arguments.
    """
    names = list(names)
    if not is_overridden("train_dataloader", data, LightningDataModule):
        return {}
    try:
        with isolate_rng():
            data.prepare_data()
            data.setup("fit")
            loader = data.train_dataloader()
            shapes = {_input_shape(batch) for batch in _small_batches(loader)}
    except (AttributeError, TypeError) as error:  # such as a loader that asks for the Trainer, which is built later
        options = " ".join(f"--model.{name} VALUE" for name in names if name != "class_names")
        reason = shorten(f"{type(error).__name__}: {error}", 100)
        raise ValueError(f"{type(data).__name__} can't be asked for a sample ({reason}): add {options}") from error
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
    """Return three samples as batches of one; of a stream the first batch, of other loaders nothing."""
    if not isinstance(loader, DataLoader):
        return iter(())
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) or loader.collate_fn is None:
        return islice(loader, 1)
    rows = [[row] for row in {0, len(dataset) // 2, len(dataset) - 1}]
    if hasattr(dataset, "__getitems__"):
        return (loader.collate_fn(dataset.__getitems__(row)) for row in rows)
    return (loader.collate_fn([dataset[row]]) for (row,) in rows)


def _input_shape(batch: Any) -> tuple[int, ...] | None:
    """Return the shape of a sample in a batch of inputs (N, ...) and targets; None for other batches."""
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else None


def _attribute(dataset: Any, *names: str) -> Any:
    """Return an attribute of a dataset or of the one that it wraps, as a Subset does; None if there is none."""
    found = [getattr(dataset, name) for name in names if hasattr(dataset, name)]
    if found or not hasattr(dataset, "dataset"):
        return found[0] if found else None
    return _attribute(dataset.dataset, *names)


def _count_classes(dataset: Any) -> int | None:
    """Return the number of classes by the largest label; None where the dataset does not tell one integer a sample."""
    tensors = _attribute(dataset, "tensors")  # of a TensorDataset
    targets = tensors[1] if tensors and len(tensors) == 2 else _attribute(dataset, "labels", "targets")
    targets = None if targets is None else torch.as_tensor(targets)
    if targets is None or targets.ndim != 1 or not len(targets) or targets.is_floating_point():
        return None
    return int(targets.max()) + 1
