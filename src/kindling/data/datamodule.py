"""Base classes of the data modules: splits, data loaders and statistics of the training split."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from typing_extensions import override

from kindling.data.augment import Augmentation
from kindling.data.datasets import ArrayDataset, Batch, as_dataset, inputs_of, subset, targets_of
from kindling.data.fitted_state import FittedState, check_unchanged, shared_state
from kindling.data.loaders import ResumableLoader, automatic_batch_size, make_loader
from kindling.data.renamed_methods import link_renamed_methods
from kindling.data.splitting import train_val_split
from kindling.data.statistics import moments_of
from kindling.utils.cores import share_of_cores
from kindling.utils.files import in_turns
from kindling.utils.hyperparameters import check_range, make_hparams_plain
from kindling.utils.tensors import to_float

# The public interface for custom data modules.
__all__ = [
    "SPLITS",
    "ArrayDataset",
    "BaseDataModule",
    "Batch",
    "ResumableLoader",
    "Split",
    "train_val_split",
]

Split = Literal["train", "test"]
SPLITS = ("train", "val", "test")


class BaseDataModule(LightningDataModule):
    """Base class of all data modules: a subclass implements `load`.

    The test split is loaded only to test and predict; the validation split is taken from the training split. A
    subclass may set `input_shape`, and `mean` and `std` if they are known without reading the data. The fitted state,
    computed from the training split and needed for other samples, belongs in `fitted`: plain values, saved in the
    checkpoint.

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
    sample_options: Sequence[str] = ("data_dir", "path", "labels", "test_path", "split")  # they choose the test samples
    train: Any  # the datasets, set by `setup`
    val: Any
    test: Any
    predict_set: Any
    passes: int | None = None  # through the training set in an epoch; set if training resumes, else by `min_batches`
    augments = False  # whether training batches are changed
    augmentation: Any = None  # what `augment` does, if it is an `Augmentation`
    row_header = "row"  # what `predicted_rows` are
    unreadable: Sequence[int] = ()  # indices of the `predicted_rows` whose file is broken; they are not predicted

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
        self.fitted: FittedState = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        link_renamed_methods(cls)

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

    def load_predict(self) -> Any:
        """Read the samples to predict, whose targets are ignored; by default the test split."""
        return as_dataset(self.load("test"))

    def predicted_rows(self) -> Sequence[object]:
        """Return the name of each sample in `predictions.csv`; by default its index."""
        return range(len(self.predict_set))

    def keys(self, of: Literal["tested", "predicted"]) -> Mapping[str, Sequence[object]]:
        """Return further columns of `predictions.csv` that identify tested or predicted samples; by default none."""
        return {}

    def sample_details(self, row: int) -> dict[str, object]:
        """Return values that describe a test sample in the report; by default its features unless it is an image."""
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
        return {**self.fitted}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_unchanged(self.origin, self.fitted, state_dict)
        self.fitted = state_dict or self.fitted

    def restore_fitted(self, state: FittedState) -> None:
        """Restore the fitted state of a checkpoint before any data is read.

        By default nothing is restored: the state is fitted again and compared in `load_state_dict`.
        """

    def combine_fitted(self, states: Sequence[FittedState]) -> None:
        """Take over the fitted states of the members of an ensemble, before any data is read.

        By default they must be equal, and their splits too unless a file defines those of the ensemble.

        Raises:
            ValueError: If they don't fit together.
        """
        self.fitted = shared_state(states, may_differ=["split"] if getattr(self, "split", None) else [])

    @property
    def has_test_split(self) -> bool:
        """Whether there are samples to test on; false for an ensemble whose members were trained on all of them."""
        return True

    @property
    def draws_folds(self) -> bool:
        """Whether cross-validation is possible: the option `fold` exists, and nothing else defines the test split."""
        return False

    @property
    def origin(self) -> str:
        """Folder or file that the samples come from, for messages; the class name if no argument sets one."""
        return str(self.hparams.get("path") or self.hparams.get("data_dir") or type(self).__name__)

    @property
    def tested_origin(self) -> str:
        """Folder or file that the test samples come from."""
        return str(self.hparams.get("test_path") or self.origin)

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
        return moments_of(self.training_inputs)

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
    def fitted_state(self) -> FittedState:
        """The contents of `fitted`, from the training split unless a checkpoint provided it."""
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
        if self.batch_size == "auto" and hasattr(self, "train"):
            self.batch_size = automatic_batch_size(len(self.train))
        if stage == "test" and not hasattr(self, "test"):
            self.test = as_dataset(self.load("test"))
        if stage == "predict" and not hasattr(self, "predict_set"):
            self.predict_set = self.load_predict()

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
        return make_loader(self, self.predict_set, self.eval_batch_size)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            return batch
        inputs, targets = to_float(batch[0]), batch[1]
        inputs = self.augment(inputs) if self._is_training else inputs
        # Lightning converts batches before it moves them, when images are still integers.
        return self.trainer.precision_plugin.convert_input(inputs) if self.trainer else inputs, targets

    @property
    def _is_training(self) -> bool:
        return bool(self.trainer and self.trainer.training)


link_renamed_methods(BaseDataModule)
