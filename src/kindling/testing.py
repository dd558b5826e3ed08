"""Checks for the tests of a project: of a model, of a data module and of a recipe, each in one line.

    from kindling.testing import check_data, check_model, check_recipe

Each raises an AssertionError that names what is wrong and where.
"""

import copy
import hashlib
import os
import pickle
import pkgutil
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from typing_extensions import override

from kindling.cli.entry_point import main
from kindling.cli.stages import has_stage
from kindling.data import BaseDataModule, ClassificationDataModule
from kindling.data.datamodule import ArrayDataset
from kindling.data.loading import targets_of
from kindling.deploy.export import some_inputs
from kindling.deploy.formats import FORMATS, ExportWrapper
from kindling.deploy.predictor import ModelCard
from kindling.deploy.verify import TOLERANCE, difference, first
from kindling.models.classification import ClassificationTask
from kindling.models.task import BaseTask
from kindling.training import ExactResume
from kindling.training.random_state import random_state, restore_random_state
from kindling.tuning import overfit_batch
from kindling.utils.console import silence_libraries
from kindling.utils.hyperparameters import is_plain

__all__ = ["check_data", "check_model", "check_recipe"]

BATCHES = 4  # of each epoch: enough to stop within one
EPOCHS = 2


def check_model(
    model_class: type[LightningModule],
    data: LightningDataModule,
    *,
    overfits: bool = True,
    formats: Sequence[str] | None = None,
    **arguments: Any,
) -> None:
    """Check that a model trains, resumes and can be used elsewhere.

    Every trainable parameter gets a gradient that is not zero; the model overfits one batch; a checkpoint loads
    without running code, and predicts as the trained model does; a killed run resumes to the same bits; and each export
    format agrees with the checkpoint. Exports are checked for Kindling's tasks, everything else for any
    LightningModule; one with manual optimization need not overfit a batch.

    Args:
        model_class: The class of the model.
        data: What to train it on; a few batches are read.
        overfits: Whether the model must overfit one batch; a linear model on noise cannot.
        formats: Export formats to check: by default all whose packages are installed.
        **arguments: Arguments of the model that the data does not tell it.

    Raises:
        AssertionError: If one of them fails.
    """

    def create() -> LightningModule:
        seed_everything(0, verbose=False)
        return (
            model_class.for_data(data, **arguments) if issubclass(model_class, BaseTask) else model_class(**arguments)
        )

    with _quietly(), tempfile.TemporaryDirectory() as folder:
        _check_gradients(create(), data)
        if overfits:
            _check_overfits(create(), data)
        trained, checkpoint = _check_resumes(create, data, Path(folder))
        model = _check_round_trip(trained, checkpoint, data, arguments)
        if isinstance(model, BaseTask) and model.has_example:
            for name in formats if formats is not None else _formats_for(model):
                _check_export(model, name, Path(folder))


def check_data(data: LightningDataModule, *, shared: float = 0.01, stratified: bool | None = None) -> None:
    """Check that the splits of a data module are sound.

    No sample of one split occurs in another; the same seed gives the same splits and batches; shapes and types are the
    same in all splits; and where targets are classes, their numbers and names fit, and no class is missing in the
    training split.

    Args:
        data: The data module; all of its splits are read.
        shared: The share of a split that may also occur, to the bit and with the same target, in another split: rows of
            a table can be alike by chance.
        stratified: Whether each class must have the same share in validation as in training, give or take chance. By
            default it must, unless the two are datasets of separate sources.

    Raises:
        AssertionError: If one of them fails.
    """
    with _quietly():
        name, untouched = type(data).__name__, _copy_of(data)
        splits = _read_splits(data, seed=0)
        again = _read_splits(untouched, seed=1)
        digests = {split: [sample.digest for sample in samples] for split, samples in splits.items()}
        for split, samples in digests.items():
            assert samples, f"{name}: the {split} split is empty"
            same = samples == [sample.digest for sample in again[split]]
            assert same, f"{name}: the {split} split differs when it is read again"
        for split, other in [("val", "train"), ("test", "train"), ("test", "val")]:
            samples = digests.get(split, [])
            common = sum((Counter(samples) & Counter(digests.get(other, []))).values())
            assert common <= shared * len(samples), (
                f"{name}: {common} of {len(samples)} samples of {split} are in {other}, too"
            )
        _check_shapes(data, splits)
        if isinstance(data, ClassificationDataModule):
            counts = _check_classes(data)
            if counts and (stratified or (stratified is None and _have_one_source(data.train, data.val))):
                _check_stratified(data, counts["train"], counts["val"])


def check_recipe(path: str | Path, *options: str) -> None:
    """Check that a recipe trains, tests and predicts, the latter two where its model and data can: a few batches.

    The run is written to `runs/` of the current folder, and removed.

    Args:
        path: The recipe, or its name.
        *options: More options of `kindling fit`.

    Raises:
        AssertionError: If a command fails, or does not write what it should.
    """
    name = f"check-{Path(path).stem}-{os.getpid()}"
    few = ["--trainer.max_epochs=1", *(f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test"))]
    with _quietly():
        try:
            _run(path, "fit", "--config", str(path), *few, *options, "--run_name", name)
            run = Path("runs", name, "version_0")
            for file in ("config.yaml", "run.json", "metrics.csv", "checkpoints/best.ckpt"):
                assert (run / file).exists(), f"{path}: kindling fit wrote no {file}"
            config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
            if config["test_after_fit"] and _has(config, "test"):
                assert (run / "test_metrics.json").exists(), f"{path}: kindling fit wrote no test_metrics.json"
            if _has(config, "predict"):
                (run / "predictions.csv").unlink(missing_ok=True)  # of the test
                _run(path, "predict", "--ckpt_path", str(run), "--trainer.limit_predict_batches=2")
                assert list(run.glob("predictions*")), f"{path}: kindling predict wrote no predictions"
        finally:
            shutil.rmtree(Path("runs", name), ignore_errors=True)


def _run(recipe: str | Path, *command: str) -> None:
    code = main(list(command))
    assert not code, f"{recipe}: `kindling {' '.join(command)}` ended with exit code {code}; its message is above"


def _has(config: dict[str, Any], stage: str) -> bool:
    """Return whether the model and data of a run's `config.yaml` have what a stage needs."""
    data = config.get("data")
    data_class = pkgutil.resolve_name(data["class_path"]) if data else None
    return has_stage(pkgutil.resolve_name(config["model"]["class_path"]), data_class, stage)


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave random numbers, and the seed in the environment, as they were."""
    seed, numbers = os.environ.get("PL_GLOBAL_SEED"), random_state()
    silence_libraries()
    try:
        yield
    finally:
        restore_random_state(numbers)
        os.environ.pop("PL_GLOBAL_SEED", None)
        if seed is not None:
            os.environ["PL_GLOBAL_SEED"] = seed


def _trainer(*callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": EPOCHS,
            "limit_train_batches": BATCHES,
            "limit_val_batches": 1,
            "limit_predict_batches": 1,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": list(callbacks),
            **options,
        }
    )


class _Gradients(Callback):
    """Notes which trainable parameters got a gradient other than zero, and one that was not finite."""

    def __init__(self) -> None:
        self.trainable: set[str] = set()
        self.reached: set[str] = set()
        self.infinite: set[str] = set()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # A hook sees each gradient, whoever calls backward() and before anything sets it to zero.
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad and name not in self.trainable:
                self.trainable.add(name)
                parameter.register_post_accumulate_grad_hook(partial(self._note, name))  # type: ignore[no-untyped-call]

    def _note(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        values = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        if values.any():  # nan counts as reached
            self.reached.add(name)
        if not values.isfinite().all():
            self.infinite.add(name)


def _check_gradients(model: LightningModule, data: LightningDataModule) -> None:
    watch, name = _Gradients(), type(model).__name__
    _trainer(watch, limit_val_batches=0).fit(model, data)
    assert watch.trainable, f"{name} has no trainable parameter"
    missing = sorted(watch.trainable - watch.reached)
    assert not missing, f"{name}: no gradient reaches {', '.join(missing)}"
    bad = sorted(watch.infinite)
    assert not bad, f"{name}: the gradient of {', '.join(bad)} is nan or infinite"


class _Losses(Callback):
    """Notes the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def _check_overfits(model: LightningModule, data: LightningDataModule) -> None:
    if isinstance(model, BaseTask):
        learnt = overfit_batch(model, data, accelerator="cpu")
        found = str(learnt).partition(": ")[2]
        assert learnt.succeeded, f"{type(model).__name__} cannot overfit one batch: {found}"
    elif model.automatic_optimization:
        watch = _Losses()
        _trainer(watch, max_epochs=-1, max_steps=500, limit_val_batches=0, overfit_batches=1).fit(model, data)
        first, last = watch.losses[0], min(watch.losses[-20:])
        assert last < 0.5 * first, (
            f"{type(model).__name__} cannot overfit one batch: its loss went from {first:.3g} to {last:.3g} "
            f"in {len(watch.losses)} steps; look at the learning rate, and at layers that are cut off from the loss"
        )


class _KilledError(Exception):
    """A process that ends without warning."""


class _Batches(Callback):
    """Notes the epoch and number of each batch, and ends training at the start of one of them.

    Args:
        kill_at: Epoch and number of the batch.
    """

    def __init__(self, kill_at: tuple[int, int] | None = None) -> None:
        self.kill_at = kill_at
        self.begun: list[tuple[int, int]] = []

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begun.append((trainer.current_epoch, batch_idx))
        if self.begun[-1] == self.kill_at:
            raise _KilledError

    @property
    def late(self) -> tuple[int, int]:
        """The second batch of the last epoch, or the only one."""
        epoch, last = self.begun[-1]
        return epoch, min(1, last)


def _check_resumes(
    create: Callable[[], LightningModule], data: LightningDataModule, folder: Path
) -> tuple[LightningModule, Path]:
    """Check that a killed run resumes to the same bits; return a model that was not killed, and its checkpoint."""
    straight, stopped, resumed = (
        ExactResume(folder / name, every_n_steps=1) for name in ("straight", "stopped", "stopped")
    )
    model, batches = create(), _Batches()
    name = type(model).__name__
    _trainer(straight, batches).fit(model, _copy_of(data))
    epoch, batch = batches.late
    where = f"batch {batch + 1} of epoch {epoch + 1}"
    try:
        _trainer(stopped, _Batches(batches.late)).fit(create(), _copy_of(data))
    except _KilledError:
        pass
    else:
        raise AssertionError(f"{name}: a second training with the same seed has no {where}, where it was to be killed")
    _trainer(resumed).fit(create(), _copy_of(data), ckpt_path=stopped.path, weights_only=True)
    weights, others = (torch.load(one.path, weights_only=True)["state_dict"] for one in (straight, resumed))
    different = [key for key in weights if not torch.equal(weights[key], others[key])]
    assert not different, (
        f"{name}: a run that was killed in {where} resumes to other weights in {', '.join(different)}; "
        "something it depends on is not in the checkpoint, such as a generator of its own or a counter"
    )
    return model, straight.path


def _check_round_trip(
    trained: LightningModule, checkpoint: Path, data: LightningDataModule, arguments: dict[str, Any]
) -> LightningModule:
    """Check that a checkpoint loads as the model that it was saved from; return the loaded model."""
    model_class, name = type(trained), type(trained).__name__
    stored = torch.load(checkpoint, weights_only=True)  # fails on anything but weights and plain values
    unplain = [key for key, value in stored.get("hyper_parameters", {}).items() if not is_plain(value)]
    assert not unplain, f"{name} stores {', '.join(unplain)} as hyperparameters, which no checkpoint can hold"
    loaded = _load(model_class, checkpoint, stored, arguments).eval()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, stored["state_dict"][key]), f"{name}: {key} changes when a checkpoint is loaded"
    if is_overridden("predict_step", loaded) and has_stage(loaded, data, "predict"):
        _check_predictions(trained, loaded, data)
    elif has_stage(loaded, data, "val"):
        ours, theirs = (_validate(one, data) for one in (trained, loaded))
        assert _are_close(ours, theirs), f"{name}: a loaded checkpoint is validated as {theirs}, its model as {ours}"
    return loaded


def _load(
    model_class: type[LightningModule], checkpoint: Path, stored: dict[str, Any], arguments: dict[str, Any]
) -> LightningModule:
    """Load a checkpoint: one of Kindling's tasks as `kindling.load` does, any other module as Lightning does."""
    if not issubclass(model_class, BaseTask):
        return model_class.load_from_checkpoint(checkpoint, weights_only=True, **arguments)
    known = {key: value for key, value in stored["hyper_parameters"].items() if not key.startswith("_")}
    model = model_class(**known)
    model.load_state_dict(stored["state_dict"], strict=model.strict_loading)
    return model


class _Predictions(Callback):
    """Keeps predictions, and what Kindling's tasks are to predict: `to_prediction` of the outputs of `forward`."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.expected: list[Any] = []

    @override
    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.made.append(outputs)
        if isinstance(pl_module, BaseTask):
            self.expected.append(pl_module.to_prediction(pl_module(batch[0])))


def _check_predictions(trained: LightningModule, loaded: LightningModule, data: LightningDataModule) -> None:
    name, (ours, theirs, again) = type(trained).__name__, (_Predictions() for _ in range(3))
    for model, watch in ((trained, ours), (loaded, theirs), (loaded, again)):
        _trainer(watch).predict(model, data, return_predictions=False)
    assert _summary(theirs.made) == _summary(again.made), (
        f"{name}: predictions differ from call to call: is something random in evaluation mode?"
    )
    assert _are_close(ours.made, theirs.made), (
        f"{name}: a loaded checkpoint predicts something else than the model that it was saved from; "
        "something predictions depend on is not in the checkpoint"
    )
    if isinstance(loaded, BaseTask):
        assert _are_close(theirs.made, theirs.expected), (
            f"{name}: predict_step does not return to_prediction(self(inputs)), which exported models compute"
        )


def _validate(model: LightningModule, data: LightningDataModule) -> dict[str, float]:
    seed_everything(0, verbose=False)  # a loss may be of random samples
    return dict(_trainer().validate(model, data, verbose=False)[0])


def _are_close(ours: Any, theirs: Any) -> bool:
    """Return whether two structures hold the same, apart from rounding."""
    pairs = list(zip(tree_leaves(ours), tree_leaves(theirs), strict=False))
    return len(pairs) == len(tree_leaves(ours)) == len(tree_leaves(theirs)) and all(_is_close(*pair) for pair in pairs)


def _is_close(ours: Any, theirs: Any) -> bool:
    if type(ours) is type(theirs) and isinstance(ours, Tensor | np.ndarray | float):
        one, other = torch.as_tensor(ours), torch.as_tensor(theirs)
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
    return type(ours) is type(theirs) and pickle.dumps(ours) == pickle.dumps(theirs)


def _formats_for(model: BaseTask) -> list[str]:
    one_input = isinstance(model.example_inputs(), Tensor)
    classifies = isinstance(model, ClassificationTask) and one_input
    return [name for name, each in FORMATS.items() if each.is_installed and (classifies or not each.classes_only)]


@torch.inference_mode()
def _check_export(model: BaseTask, name: str, folder: Path) -> None:
    chosen, portable = FORMATS[name], ExportWrapper(model).eval()
    samples = some_inputs(model, 7)
    card = ModelCard(type(model).__name__, tuple(getattr(model, "class_names", ())), tuple(model.input_shape or ()))
    file = folder / f"model{chosen.suffix}"
    try:
        with torch.inference_mode(False):
            chosen.write(portable, first(samples, 2), card, file)
    except Exception as error:  # a forward that is traced may fail in any way
        reason = (str(error).splitlines() or [""])[0]
        raise AssertionError(f"{card.model} can't be exported to {name}: {reason}") from error
    compute = chosen.read(file)
    found = [each for size in (1, 2, 7) for each in difference(portable, compute, first(samples, size))]
    assert all(each <= TOLERANCE for each in found), (  # nan is no agreement
        f"{card.model} exported to {name} differs from the checkpoint by {max(found):.1e}"
    )


def _copy_of(data: LightningDataModule) -> LightningDataModule:
    """Return a data module of its own that has read as much as this one: nothing, if this one is new."""
    alone = copy.copy(data)
    alone.trainer = None
    return copy.deepcopy(alone)


class _Sample(NamedTuple):
    """A sample in short.

    Attributes:
        digest: The same for samples that are alike to the bit.
        layout: Type and shape of each of its parts.
    """

    digest: bytes
    layout: tuple[tuple[str, tuple[int, ...]], ...]


def _read_splits(data: LightningDataModule, seed: int) -> dict[str, list[_Sample]]:
    """Return the samples of each split: those of training in any order, others in theirs.

    Only the augmentation of training samples may depend on the random numbers of the training, which are the same in
    each call; all others depend on `seed`.
    """
    seed_everything(seed, verbose=False)
    data.prepare_data()
    data.setup("fit")
    if is_overridden("test_dataloader", data):
        data.setup("test")
    splits = {}
    for split in ("val", "test", "train"):
        if is_overridden(f"{split}_dataloader", data):
            if split == "train":
                seed_everything(0, verbose=False)
            what = f"{type(data).__name__}: the samples of {split}"
            splits[split] = [_summary(sample) for loader in _loaders(data, split) for sample in _samples(loader, what)]
    splits.get("train", []).sort()
    return splits


def _loaders(data: LightningDataModule, split: str) -> list[Any]:
    loaders = getattr(data, f"{split}_dataloader")()
    return tree_leaves(getattr(loaders, "iterables", loaders))  # of a CombinedLoader


def _samples(loader: Any, what: str) -> Iterator[Any]:
    """Return the samples of a loader: those of its dataset that its sampler chooses, else the rows of its batches."""
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return (row for batch in loader for row in _rows(batch, what))
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return iter(dataset)
    return (dataset[index] for indices in loader.batch_sampler for index in indices)


def _rows(batch: Any, what: str) -> Iterator[list[Tensor]]:
    leaves = tree_leaves(batch)
    sizes = {len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0 for leaf in leaves}
    assert len(sizes) == 1, (
        f"{what} cannot be compared: their loader makes no batches of a dataset's samples, and its own batches are not "
        "tensors of the same length"
    )
    return ([leaf[row] for leaf in leaves] for row in range(sizes.pop()))


def _summary(sample: Any) -> _Sample:
    digest, layout = hashlib.blake2b(digest_size=16), []
    for leaf in tree_leaves(sample):
        if isinstance(leaf, Tensor) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"):
            values = torch.as_tensor(leaf).detach().cpu()
            layout.append((str(values.dtype), tuple(values.shape)))
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            layout.append((type(leaf).__name__, ()))
            digest.update(pickle.dumps(leaf))
    digest.update(repr(layout).encode())
    return _Sample(digest.digest(), tuple(layout))


def _check_shapes(data: LightningDataModule, splits: dict[str, list[_Sample]]) -> None:
    """Check that the samples of all splits have the same structure, types and shapes, and inputs that of the module.

    Where shapes vary within a split, only types and numbers of dimensions are compared.
    """
    name = type(data).__name__
    splits = dict(sorted(splits.items(), key=lambda item: item[0] != "train"))
    if isinstance(data, BaseDataModule) and hasattr(data, "input_shape"):
        expected = tuple(data.input_shape)
        for split, samples in splits.items():
            for shape in {sample.layout[0][1] for sample in samples} - {expected}:
                raise AssertionError(f"{name}: inputs of {split} have shape {shape}, input_shape is {expected}")
    layouts: dict[str, set[Any]] = {split: {one.layout for one in samples} for split, samples in splits.items()}
    if any(len(found) > 1 for found in layouts.values()):
        layouts = {
            split: {(kind, len(shape)) for layout in found for kind, shape in layout}
            for split, found in layouts.items()
        }
    first = next(iter(layouts))
    for split, found in layouts.items():
        assert found == layouts[first], f"{name}: samples of {split} are {found}, those of {first} {layouts[first]}"


def _check_classes(data: ClassificationDataModule) -> dict[str, Tensor]:
    """Check names and labels of the classes; return how many samples of each there are in each split, if it is told."""
    name, names = type(data).__name__, tuple(data.class_names)
    assert len(names) == data.num_classes, f"{name}: {len(names)} class_names for {data.num_classes} classes"
    assert len(set(names)) == len(names), f"{name}: two classes have the same name: {names}"
    counts = {}
    for split in ("train", "val", "test"):
        labels = targets_of(getattr(data, split))
        if labels is None:
            return {}
        assert not labels.is_floating_point(), f"{name}: labels of {split} are {labels.dtype}, not integers"
        low, high = int(labels.min()), int(labels.max())
        assert 0 <= low <= high < data.num_classes, f"{name}: labels of {split} go from {low} to {high}"
        counts[split] = labels.flatten().bincount(minlength=data.num_classes)
    unseen = [names[label] for label in (counts["train"] == 0).nonzero().flatten().tolist()]
    assert not unseen, f"{name}: no training sample of class {', '.join(map(str, unseen))}"
    return counts


def _have_one_source(train: Dataset[Any], val: Dataset[Any]) -> bool:
    """Return whether two splits are parts of one dataset, or may be: of those in memory nothing is known."""
    if isinstance(train, Subset) and isinstance(val, Subset):
        return train.dataset is val.dataset or _have_one_source(train.dataset, val.dataset)
    return isinstance(train, ArrayDataset) and isinstance(val, ArrayDataset)


def _check_stratified(data: ClassificationDataModule, train: Tensor, val: Tensor) -> None:
    """Check the number of validation samples of each class: it may differ from the expected one as chance has it.

    Args:
        data: The data module.
        train: Training samples of each class, shape (classes,).
        val: Validation samples of each class, shape (classes,).
    """
    labels = targets_of(data.val)
    if labels is None or labels.ndim != 1:  # labels of one sample depend on each other
        return
    share = (train + val) / (train + val).sum()
    expected = share * val.sum()
    chance = 4 * (expected * (1 - share)).sqrt() + 1  # four standard deviations of a binomial distribution
    wrong = ((val - expected).abs() > chance) | ((val == 0) & (expected >= 3))
    found = [
        f"{val[label]} of class {data.class_names[label]}, expected {expected[label]:.0f}"
        for label in wrong.nonzero().flatten().tolist()
    ]
    assert not found, f"{type(data).__name__}: the validation split is not stratified: {'; '.join(found)}"
