"""Base classes of the data modules: splits, data loaders and statistics of the training split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from typing_extensions import override

from kindling.data.augment import Augmentation
from kindling.data.auto_flip import choose_flip
from kindling.data.loaders import automatic_batch_size, make_loader
from kindling.data.loading import ArrayDataset, Batch, ResumableLoader, as_dataset, inputs_of, subset, targets_of
from kindling.data.mixing import Mixing
from kindling.data.splitting import train_val_split
from kindling.utils.cores import share_of_cores
from kindling.utils.files import in_turns
from kindling.utils.hyperparameters import check_range, make_hparams_plain
from kindling.utils.tensors import to_float
from kindling.utils.text import join_names

# The public interface for custom data modules.
__all__ = [
    "SPLITS",
    "ArrayDataset",
    "BaseDataModule",
    "Batch",
    "ClassificationDataModule",
    "ResumableLoader",
    "Split",
    "train_val_split",
]

Split = Literal["train", "test"]
SPLITS = ("train", "val", "test")
FLIP = "flip"  # key of the choice of `--data.flip auto` in a checkpoint
MEMBERS = "members"  # key of the fitted state of an ensemble whose members may have learned from different samples


class BaseDataModule(LightningDataModule):
    """Base class of all data modules: a subclass implements `load`.

    The test split is loaded only to test and predict; the validation split is taken from the training split. A
    subclass may set `input_shape`, and `mean` and `std` if they are known without reading the data. State learned from
    the training split and needed for other samples belongs in `fitted`: plain values, saved in the checkpoint.

    Args:
        batch_size: Samples per training batch, over all devices; auto decides by the number of training samples: about
            34 batches per epoch, of 32 to 256 samples, and larger ones from 100,000 samples on.
        eval_batch_size: Samples per batch and device in validation, test and prediction.
        val_split: Training samples to hold out for validation, stratified by class: a number, or a fraction as a
            float.
        split_seed: Seed of that split, independent of the training seed.
        num_workers: Worker processes that load batches; 0 is fastest for data in memory.
        min_batches: Fewest batches of a training epoch: a smaller training set is repeated within the epoch, each time
            in another order, so that few images get as many steps between two validations as many.

    Raises:
        ValueError: If an argument is out of range.
    """

    input_shape: tuple[int, ...]
    train: Any  # the datasets, set by `setup`
    val: Any
    test: Any
    new: Any
    passes: int | None = None  # through the training set in an epoch; set if training resumes, else by `min_batches`
    augments = False  # whether `augment` or `mixing` changes anything
    augmentation: Any = None  # what `augment` does, if it is an `Augmentation`
    mixing: Mixing | None = None  # of training samples and their targets, after `augment`
    row_header = "row"  # what `predicted_rows` are
    unreadable: Sequence[int] = ()  # indices of the `predicted_rows` whose file is broken: they are no samples

    def __init__(
        self,
        batch_size: int | Literal["auto"] = 64,
        eval_batch_size: int = 1024,
        val_split: int | float = 0.1,
        split_seed: int = 42,
        num_workers: int = 0,
        min_batches: int = 1,
    ) -> None:
        super().__init__()
        if batch_size != "auto":
            check_range("batch_size", batch_size, 1)
        check_range("min_batches", min_batches, 1)
        check_range("eval_batch_size", eval_batch_size, 1)
        check_range("num_workers", num_workers, 0)
        self.save_hyperparameters()
        make_hparams_plain(self)
        self.batch_size: Any = batch_size  # a number from `setup` on
        self.eval_batch_size = eval_batch_size
        self.val_split = val_split
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.min_batches = min_batches
        self.fitted: dict[str, Any] = {}

    @property
    def cores(self) -> int:
        """Number of cores for each process of the run on this machine."""
        return share_of_cores(self.trainer.num_devices if self.trainer else 1)

    def load(self, split: Split) -> Batch | Dataset[Any]:
        """Read one official split.

        Returns:
            Inputs (N, ...) and targets (N,) as tensors, indexed a whole batch at a time; or a map-style dataset of
            pairs of an input and a target, which `collate` combines into batches.
        """
        raise NotImplementedError

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        """Combine samples of a dataset into a batch; by default with torch's `default_collate`."""
        return default_collate(samples)

    def load_training(self) -> tuple[Any, Any]:
        """Read the training and validation sets; by default both come from the training split."""
        dataset = as_dataset(self.load("train"))
        targets = targets_of(dataset)
        strata = torch.zeros(len(dataset)) if targets is None or targets.ndim != 1 else targets  # type: ignore[arg-type]
        train, val = train_val_split(strata, "val_split", self.val_split, self.split_seed)
        return subset(dataset, train), subset(dataset, val)

    def load_new(self) -> Any:
        """Read the samples to predict, whose targets are ignored; by default the test split."""
        return as_dataset(self.load("test"))

    def predicted_rows(self) -> Sequence[object]:
        """Return the name of each sample in `predictions.csv`; by default its index."""
        return range(len(self.new))

    def keys(self, of: Literal["tested", "predicted"]) -> Mapping[str, Sequence[object]]:
        """Return further columns of `predictions.csv` that identify tested or predicted samples; by default none."""
        return {}

    def describe(self, row: int) -> dict[str, object]:
        """Return what identifies a test sample besides its image; by default its features."""
        inputs = inputs_of(self.test, torch.tensor([row]))
        features = [] if inputs is None or inputs.ndim > 2 else inputs[0].tolist()
        return {f"feature {number}": round(value, 4) for number, value in enumerate(features)}

    def tested_rows(self) -> Sequence[object]:
        """Return the name of each test sample; by default its index."""
        return range(len(self.test))

    def write_split(self, run: Path) -> None:
        """Write which sample is in which split into a run folder; by default nothing is written."""

    def augment(self, inputs: Tensor) -> Tensor:
        """Augment a batch of training inputs; by default with `augmentation`, if it is set."""
        return self.augmentation(inputs) if isinstance(self.augmentation, Augmentation) else inputs

    @override
    def state_dict(self) -> dict[str, Any]:
        flip = getattr(self.augmentation, "flip", "auto")
        return self.fitted | ({FLIP: flip} if self._chooses_flip and flip != "auto" else {})

    @property
    def _chooses_flip(self) -> bool:
        return isinstance(self.augmentation, Augmentation) and self.hparams.get("flip") == "auto"

    def _set_flip(self, flip: bool) -> None:
        self.augmentation = replace(self.augmentation, flip=flip)
        self.augments = bool(self.augmentation) or bool(self.mixing)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if FLIP in state_dict and self._chooses_flip:
            self._set_flip(state_dict[FLIP])
        state_dict = {name: value for name, value in state_dict.items() if name != FLIP}
        # The weights fit the classes and columns at training time; the data read so far may have changed since.
        changed = [name for name in state_dict if name in self.fitted and self.fitted[name] != state_dict[name]]
        if changed:
            changes = [f"{name}{_describe_change(self.fitted[name], state_dict[name])}" for name in changed]
            raise ValueError(
                f"{self.origin} is not the data that the checkpoint was trained on: other {join_names(changes)}; "
                "start a new run without --ckpt_path"
            )
        self.fitted = state_dict or self.fitted

    def begin_with(self, learned: dict[str, Any]) -> None:
        """Restore the fitted state of a checkpoint before any data is read.

        By default nothing is restored: the state is fitted again and compared in `load_state_dict`.
        """

    def combine(self, learned: Sequence[dict[str, Any]]) -> None:
        """Take over the fitted states of the members of an ensemble, before any data is read.

        By default they must be equal, and their splits too unless a file defines those of the ensemble.

        Raises:
            ValueError: If they don't fit together.
        """
        learned = [{name: value for name, value in state.items() if name != FLIP} for state in learned]
        shared = {name: value for name, value in learned[0].items() if all(each.get(name) == value for each in learned)}
        free = {"split"} if getattr(self, "split", None) else set()
        if differing := {name for state in learned for name in state} - {*shared, MEMBERS, *free}:
            raise ValueError(f"the members of the ensemble were trained with different {join_names(sorted(differing))}")
        self.fitted = shared | {MEMBERS: len(learned)}

    @property
    def has_test_split(self) -> bool:
        """Whether there are samples to test on; not for an ensemble whose members were trained on all."""
        return True

    @property
    def origin(self) -> str:
        """Folder or file that the samples come from, for messages; the class name if no argument sets one."""
        return str(self.hparams.get("path", self.hparams.get("data_dir", type(self).__name__)))

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training inputs per channel or feature, as the model receives them; 0 if they are not floats."""
        return tuple(self._moments[0].tolist())

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training inputs per channel or feature; 1 if they are constant or not floats."""
        return tuple(self._moments[1].tolist())

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        inputs = self.training_inputs
        if inputs is None or not inputs.is_floating_point():  # on demand, or integers such as tokens
            return torch.zeros(1), torch.ones(1)
        dims = (0, *range(2, inputs.ndim))  # all but C
        std = inputs.std(dim=dims)
        return inputs.mean(dim=dims), std.where(std > 0, 1.0)

    @property
    def training_inputs(self) -> Tensor | None:
        """Inputs of the training split as the model receives them, (N, ...); None if they are read on demand."""
        self._read_training()
        inputs = to_float(self.train.inputs) if isinstance(self.train, ArrayDataset) else None
        return inputs if isinstance(inputs, Tensor) else None

    @property
    def training_targets(self) -> Tensor | None:
        """Targets of the training split, shape (N, ...); None if the dataset does not expose them."""
        self._read_training()
        return targets_of(self.train)

    @property
    def _learned(self) -> dict[str, Any]:
        """The state in `fitted`, learned from the training split unless a checkpoint provided it."""
        if not self.fitted:
            self._read_training()
        return self.fitted

    def _read_training(self) -> None:
        with in_turns():  # before Lightning connects the processes, which then calls it in one of them
            self.prepare_data()
        self.setup("fit")

    @override
    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and not hasattr(self, "train"):
            self.train, self.val = self.load_training()
        if stage == "fit" and self.mixing and getattr(self, "task", None) not in ("classification", "multilabel"):
            raise ValueError(
                f"MixUp and CutMix need classes, but the targets of {self.origin} are not: leave out --data.mixup and "
                "--data.cutmix"
            )
        if stage == "fit" and isinstance(self.augmentation, Augmentation) and self.augmentation.flip == "auto":
            self._set_flip(choose_flip(self.train, self.split_seed))
        if self.batch_size == "auto" and hasattr(self, "train"):
            self.batch_size = automatic_batch_size(len(self.train))
        if stage == "test" and not hasattr(self, "test"):
            self.test = as_dataset(self.load("test"))
        if stage == "predict" and not hasattr(self, "new"):
            self.new = self.load_new()

    @override
    def train_dataloader(self) -> ResumableLoader:
        return make_loader(self, self.train, self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> ResumableLoader:
        return make_loader(self, self.val, self.eval_batch_size)

    @override
    def test_dataloader(self) -> ResumableLoader:
        return make_loader(self, self.test, self.eval_batch_size)

    @override
    def predict_dataloader(self) -> ResumableLoader:
        return make_loader(self, self.new, self.eval_batch_size)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            return batch
        inputs, targets = to_float(batch[0]), batch[1]
        if not (self.trainer and self.trainer.training):
            return inputs, targets
        inputs = self.augment(inputs)
        return self.mixing(inputs, targets, num_classes=self.num_classes) if self.mixing else (inputs, targets)  # type: ignore[attr-defined]


class ClassificationDataModule(BaseDataModule):
    """Base class of data modules for classification: a subclass also sets `num_classes` and `class_names`."""

    task: ClassVar[Literal["classification"]] = "classification"
    num_classes: int
    class_names: tuple[str, ...]

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training samples per class.

        Raises:
            ValueError: If the training dataset does not expose its targets.
        """
        return count_classes(self, getattr(self, "num_classes", 0))


def count_classes(data: BaseDataModule, num_classes: int) -> tuple[int, ...]:
    """Return the number of training samples per class.

    Raises:
        ValueError: If the training dataset does not expose its targets.
    """
    targets = data.training_targets
    if targets is None:
        raise ValueError(f"{type(data.train).__name__} needs an attribute `targets` with the class of each sample")
    return tuple(targets.bincount(minlength=num_classes).tolist())


def _describe_change(now: Any, then: Any) -> str:
    """Return the current and the previous value in parentheses, or nothing if they would not be readable."""
    if isinstance(now, int):
        return f" ({now}, was {then})"
    if isinstance(now, list) and all(isinstance(name, str) for name in now):
        return f" ({join_names(now, 5)}, was {join_names(then, 5)})"
    return ""
