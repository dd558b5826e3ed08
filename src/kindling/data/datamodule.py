"""What all data sources share: splits, loaders, and what they learn from the data."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from typing_extensions import override

from kindling.data.loading import (
    ArrayDataset,
    Batch,
    EpochSampler,
    ResumableLoader,
    SeededDataset,
    TrainingBatches,
    as_dataset,
    identity_collate,
    inputs_of,
    subset,
    targets_of,
)
from kindling.data.splitting import train_val_split
from kindling.utils.hyperparameters import make_hparams_plain
from kindling.utils.inputs import to_float
from kindling.utils.text import join_names

# What a source of one's own is made of.
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


class BaseDataModule(LightningDataModule):
    """Base of all data sources: a subclass implements `load`.

    The test split is loaded for testing and predicting alone; validation is carved out of the training split. A source
    that knows the shape of its inputs sets `input_shape`, and where they are known without reading the data, `mean` and
    `std`. What a source learns from its training split and needs for other samples, it keeps in `fitted`, plain values
    that go into the checkpoint.

    Args:
        batch_size: Samples in a training batch, on each device.
        eval_batch_size: Samples in a batch of validation, test and prediction.
        val_split: Samples (or as a float, their share) held out of the training split for validation, with the same
            share of every class.
        split_seed: Seed of that split; independent of the seed of the training.
        num_workers: Processes that load batches; 0 is fastest for data in memory.

    Raises:
        ValueError: If a size is out of its range.
    """

    input_shape: tuple[int, ...]
    train: Any  # the datasets, once they have been read
    val: Any
    test: Any
    new: Any
    augments = False  # whether `augment` changes anything
    row_header = "row"  # what `predicted_rows` are

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 1024,
        val_split: int | float = 0.1,
        split_seed: int = 42,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if num_workers < 0:
            raise ValueError(f"num_workers must not be negative: {num_workers}")
        self.save_hyperparameters()
        make_hparams_plain(self)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_split = val_split
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.fitted: dict[str, Any] = {}

    def load(self, split: Split) -> Batch | Dataset[Any]:
        """Read one official split.

        Returns:
            Inputs (N, ...) and targets (N,) as tensors, which are indexed a whole batch at a time; or a dataset of
            samples, pairs of an input and a target, which `collate` puts together.
        """
        raise NotImplementedError

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        """Put samples of a dataset together to a batch; by default as torch does, tensor by tensor."""
        return default_collate(samples)

    def load_training(self) -> tuple[Any, Any]:
        """Read training and validation; by default validation is carved out of the training split."""
        dataset = as_dataset(self.load("train"))
        targets = targets_of(dataset)
        strata = torch.zeros(len(dataset)) if targets is None or targets.ndim != 1 else targets  # type: ignore[arg-type]
        train, val = train_val_split(strata, "val_split", self.val_split, self.split_seed)
        return subset(dataset, train), subset(dataset, val)

    def load_new(self) -> Any:
        """Read the samples to predict, whatever their targets are; by default the test split."""
        return as_dataset(self.load("test"))

    def predicted_rows(self) -> Sequence[object]:
        """What each sample to predict is called in `predictions.csv`; by default its number."""
        return range(len(self.new))

    def describe(self, row: int) -> dict[str, object]:
        """Return what identifies a test sample to a person, beside its picture: by default its features."""
        inputs = inputs_of(self.test, torch.tensor([row]))
        if inputs is None or inputs.ndim > 2:
            return {}
        sample = inputs[0]
        return {f"feature {number}": round(value, 4) for number, value in enumerate(sample.tolist())}

    def tested_rows(self) -> Sequence[object]:
        """What each test sample is called; by default its number."""
        return range(len(self.test))

    def write_split(self, run: Path) -> None:
        """Writes into a run folder which sample is in which split, for a source that decides it by itself."""

    def augment(self, inputs: Tensor) -> Tensor:
        """Changes a training batch of inputs at random, each sample by itself; by default it does not."""
        return inputs

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.fitted

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # What has been read already is of the data as it is now; the weights know the classes and columns of then.
        changed = {name: value for name, value in state_dict.items() if self.fitted.get(name, value) != value}
        if changed:
            others = [f"other {name}{_instead(self.fitted[name], value)}" for name, value in changed.items()]
            raise ValueError(
                f"{self.origin} is not what the checkpoint was trained on: {join_names(others)}; train anew, without "
                "--ckpt_path"
            )
        self.fitted = state_dict

    def begin_with(self, learned: dict[str, Any]) -> None:
        """Take over what a checkpoint has learned, before any data is read.

        By default nothing is taken over: the data is read as in the training and compared in `load_state_dict`. A
        source that checks its data against the checkpoint in another way need not learn the same again.
        """

    @property
    def origin(self) -> str:
        """Where the samples come from, for messages: the folder or file, where an argument names it."""
        return str(self.hparams.get("path", self.hparams.get("data_dir", type(self).__name__)))

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training inputs by channel or feature, as the model receives them; 0 if they are no floats."""
        inputs = self._training_inputs
        return (0.0,) if inputs is None else tuple(inputs.mean(dim=_other_dims(inputs)).tolist())

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training inputs by channel or feature; 1 where they are constant or no floats."""
        inputs = self._training_inputs
        if inputs is None:
            return (1.0,)
        std = inputs.std(dim=_other_dims(inputs))
        return tuple(std.where(std > 0, 1.0).tolist())

    @property
    def training_targets(self) -> Tensor | None:
        """Targets of the training split, shape (N, ...); None if the dataset does not have them as a whole."""
        self._read_training()
        return targets_of(self.train)

    @property
    def _training_inputs(self) -> Tensor | None:
        """The inputs as floats; None if they are read from a disk, or are integers such as tokens."""
        self._read_training()
        inputs = to_float(self.train.inputs) if isinstance(self.train, ArrayDataset) else None
        return inputs if isinstance(inputs, Tensor) and inputs.is_floating_point() else None

    @property
    def _learned(self) -> dict[str, Any]:
        """What is in `fitted`, read from the training split where no checkpoint has said it."""
        if not self.fitted:
            self._read_training()
        return self.fitted

    def _read_training(self) -> None:
        self.prepare_data()
        self.setup("fit")

    @override
    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and not hasattr(self, "train"):
            self.train, self.val = self.load_training()
        if stage == "test" and not hasattr(self, "test"):
            self.test = as_dataset(self.load("test"))
        if stage == "predict" and not hasattr(self, "new"):
            self.new = self.load_new()

    @override
    def train_dataloader(self) -> ResumableLoader:
        # The order of an epoch follows from seed and epoch alone, so a resumed run sees the same batches.
        dataset = self._for_loader(self.train)
        sampler = EpochSampler(dataset, *self._share, seed=_seed())
        return self._loader(dataset, batch_sampler=TrainingBatches(sampler, self.batch_size, drop_last=False))

    @override
    def val_dataloader(self) -> ResumableLoader:
        return self._eval_loader(self.val)

    @override
    def test_dataloader(self) -> ResumableLoader:
        return self._eval_loader(self.test)

    @override
    def predict_dataloader(self) -> ResumableLoader:
        return self._eval_loader(self.new)

    @property
    def _share(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _eval_loader(self, dataset: Dataset[Any]) -> ResumableLoader:
        # Each sample counts once, however many processes share them; torch's own sampler repeats some. Of fewer samples
        # than processes each evaluates all: Lightning skips the hooks of a process without batches, and others wait.
        dataset = self._for_loader(dataset)
        share = self._share if len(dataset) >= self._share[0] else (1, 0)  # type: ignore[arg-type]
        sampler = UnrepeatedDistributedSampler(dataset, *share, shuffle=False)
        return self._loader(dataset, batch_size=self.eval_batch_size, sampler=sampler)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _for_loader(self, dataset: Dataset[Any]) -> Dataset[Any]:
        if isinstance(dataset, ArrayDataset):
            # Where the data is on the GPU, no batch has to be sent there; worker processes can't share it.
            return dataset.to(self._device if self.num_workers == 0 else torch.device("cpu"))
        return SeededDataset(dataset, _seed())

    def _loader(self, dataset: Dataset[Any], **batches: Any) -> ResumableLoader:
        in_memory = isinstance(dataset, ArrayDataset)
        on_gpu = isinstance(dataset, ArrayDataset) and dataset.labels.device.type != "cpu"
        return ResumableLoader(
            dataset,
            **batches,
            num_workers=self.num_workers,
            collate_fn=identity_collate if in_memory else self.collate,
            # What is sent to a GPU is sent from pinned memory: Lightning's copies then wait for nothing.
            pin_memory=self._device.type == "cuda" and not on_gpu,
            # A generator of its own: making a loader must not move the random numbers of the training.
            generator=torch.Generator(),
            persistent_workers=self.num_workers > 0,
        )

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            return batch
        inputs, targets = to_float(batch[0]), batch[1]
        return (self.augment(inputs) if self.trainer and self.trainer.training else inputs), targets


class ClassificationDataModule(BaseDataModule):
    """Base of the data sources whose targets are classes.

    It takes the arguments of `BaseDataModule`. A subclass also sets `num_classes` and `class_names`.
    """

    num_classes: int
    class_names: tuple[str, ...]

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Training samples of each class.

        Raises:
            ValueError: If the training dataset does not tell its targets.
        """
        targets = self.training_targets
        if targets is None:
            raise ValueError(f"{type(self.train).__name__} needs an attribute `targets`: the classes of its samples")
        return tuple(targets.bincount(minlength=getattr(self, "num_classes", 0)).tolist())


def _seed() -> int:
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def _other_dims(inputs: Tensor) -> tuple[int, ...]:
    """Return all dimensions of inputs (N, C, ...) but that of the channels or features."""
    return (0, *range(2, inputs.ndim))


def _instead(now: Any, then: Any) -> str:
    """Says what has changed, where a person can read it."""
    if isinstance(now, int):
        return f" ({now}, not {then})"
    if isinstance(now, list) and all(isinstance(name, str) for name in now):
        return f" ({join_names(now, 5)}, not {join_names(then, 5)})"
    return ""
