"""Checks for the tests of a project: of a model, of a data module and of a recipe, each in one line.

    from kindling.testing import check_data, check_model, check_recipe

Each raises an AssertionError that names what is wrong and where.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from kindling.callbacks import ExactResume
from kindling.callbacks.states import random_state, restore_random_state
from kindling.cli import main
from kindling.console import quiet
from kindling.data import BaseDataModule, ClassificationDataModule
from kindling.data.loading import targets_of
from kindling.deploy.export import some_inputs
from kindling.deploy.formats import FORMATS, Portable
from kindling.deploy.proof import TOLERANCE, difference
from kindling.hyperparameters import is_plain
from kindling.models.task import BaseTask
from kindling.predictor import ModelCard
from kindling.trials import overfit_batch

__all__ = ["check_data", "check_model", "check_recipe"]

BATCHES = 4  # of each epoch: enough to stop within one
EPOCHS = 2
KILLED_AT = 5  # batches: the second of the second epoch
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": (), "torchscript": ()}


def check_model(
    model_class: type[LightningModule],
    data: LightningDataModule,
    *,
    overfits: bool = True,
    formats: Sequence[str] | None = None,
    **arguments: Any,
) -> None:
    """Check that a model trains, resumes and can be used elsewhere.

    Gradients reach every trainable parameter; one batch can be learned by heart; a checkpoint loads into the same
    predictions, without running code; a killed run resumes to the same bits; and each export format agrees with the
    checkpoint. The last holds for Kindling's tasks; a plain LightningModule is checked in everything else, and one with
    manual optimization is not asked to learn a batch.

    Args:
        model_class: The class of the model.
        data: What to train it on; a few batches are read.
        overfits: Whether the model must learn one batch by heart; a linear model on noise cannot.
        formats: Export formats to check: by default `onnx` (where the extra `export` is installed), `torch_export` and
            `torchscript`.
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
        checkpoint = _check_resumes(create, data, Path(folder))
        model = _check_round_trip(model_class, checkpoint, data, arguments)
        if isinstance(model, BaseTask) and model.input_shape:
            for name in formats if formats is not None else _installed_formats():
                _check_export(model, name, Path(folder))


def check_data(data: LightningDataModule, *, shared: float = 0.01) -> None:
    """Check that the splits of a data module are sound.

    No sample of one split occurs in another; the same seed gives the same splits and batches; shapes and types are the
    same in all splits; and where targets are classes, their numbers and names fit, and no class is missing in the
    training split.

    Args:
        data: The data module; all of its splits are read.
        shared: The share of a split that may also occur, to the bit and with the same target, in the training split:
            rows of a table can be alike by chance.

    Raises:
        AssertionError: If one of them fails.
    """
    with _quietly():
        name = type(data).__name__
        splits = _read_splits(data, seed=0)
        again = _read_splits(_copy_of(data), seed=1)
        for split, samples in splits.items():
            assert samples, f"{name}: the {split} split is empty"
            assert samples == again.get(split), f"{name}: the {split} split differs when it is read again"
        for split in splits.keys() - {"train"}:
            common = sum((Counter(splits[split]) & Counter(splits.get("train", []))).values())
            most = shared * len(splits[split])
            assert common <= most, f"{name}: {common} of {len(splits[split])} samples of {split} are in train, too"
        _check_batches(data)
        if isinstance(data, ClassificationDataModule):
            _check_classes(data)


def check_recipe(path: str | Path, *options: str) -> None:
    """Check that a recipe trains, tests and predicts: a few batches of one epoch.

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
            if (run / "test_metrics.json").exists():
                _run(path, "predict", "--ckpt_path", str(run), "--trainer.limit_predict_batches=2")
        finally:
            shutil.rmtree(Path("runs", name), ignore_errors=True)


def _run(recipe: str | Path, *command: str) -> None:
    code = main(list(command))
    assert not code, f"{recipe}: `kindling {' '.join(command)}` ended with exit code {code}; its message is above"


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave random numbers, and the seed in the environment, as they were."""
    seed, numbers = os.environ.get("PL_GLOBAL_SEED"), random_state()
    quiet()
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
    """Notes which parameters got a gradient, and that it was finite."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self.infinite: set[str] = set()

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.reached.add(name)
                if not parameter.grad.isfinite().all():
                    self.infinite.add(name)


def _check_gradients(model: LightningModule, data: LightningDataModule) -> None:
    watch = _Gradients()
    _trainer(watch, max_epochs=1, limit_val_batches=0).fit(model, data)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable, f"{type(model).__name__} has no trainable parameter"
    missing = sorted(trainable - watch.reached)
    assert not missing, f"{type(model).__name__}: no gradient reaches {', '.join(missing)}"
    bad = sorted(watch.infinite)
    assert not bad, f"{type(model).__name__}: the gradient of {', '.join(bad)} is nan or infinite"


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
        assert learnt.whole, f"{type(model).__name__}: {learnt}"
    elif model.automatic_optimization:
        watch = _Losses()
        _trainer(watch, max_epochs=-1, max_steps=500, limit_val_batches=0, overfit_batches=1).fit(model, data)
        first, last = watch.losses[0], min(watch.losses[-20:])
        assert last < 0.5 * first, (
            f"{type(model).__name__} does not learn one batch by heart: its loss went from {first:.3g} to {last:.3g} "
            f"in {len(watch.losses)} steps; look at the learning rate, and at layers that are cut off from the loss"
        )


class _KilledError(Exception):
    """A process that ends without warning."""


class _KillAt(Callback):
    """Ends training in the middle of a batch."""

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == KILLED_AT - 1:
            raise _KilledError


def _check_resumes(create: Any, data: LightningDataModule, folder: Path) -> Path:
    """Check that a killed run resumes to the same bits, and return its last checkpoint."""
    straight, stopped = (ExactResume(folder / name, every_n_steps=1) for name in ("straight", "stopped"))
    model = create()
    name = type(model).__name__
    _trainer(straight).fit(model, data)
    killed = False
    try:
        _trainer(stopped, _KillAt()).fit(create(), data)
    except _KilledError:
        killed = True
    if killed:  # else an epoch has fewer batches than that
        resumed = ExactResume(folder / "stopped", every_n_steps=1)
        _trainer(resumed).fit(create(), data, ckpt_path=stopped.path, weights_only=True)
        weights, others = (torch.load(one.path, weights_only=True)["state_dict"] for one in (straight, resumed))
        different = [key for key in weights if not torch.equal(weights[key], others[key])]
        assert not different, (
            f"{name}: a run that was killed in batch {KILLED_AT} resumes to other weights in {', '.join(different)}; "
            "something it depends on is not in the checkpoint, such as a generator of its own or a counter"
        )
    return straight.path


def _check_round_trip(
    model_class: type[LightningModule], checkpoint: Path, data: LightningDataModule, arguments: dict[str, Any]
) -> LightningModule:
    name = model_class.__name__
    stored = torch.load(checkpoint, weights_only=True)  # fails on anything but weights and plain values
    unplain = [key for key, value in stored.get("hyper_parameters", {}).items() if not is_plain(value)]
    assert not unplain, f"{name} stores {', '.join(unplain)} as hyperparameters, which no checkpoint can hold"
    known = {} if issubclass(model_class, BaseTask) else arguments
    loaded, again = (model_class.load_from_checkpoint(checkpoint, weights_only=True, **known).eval() for _ in range(2))
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, stored["state_dict"][key]), f"{name}: {key} changes when a checkpoint is loaded"
    if is_overridden("predict_step", loaded) and is_overridden("predict_dataloader", data):
        ours, theirs = (tree_leaves(_trainer().predict(one, data)) for one in (loaded, again))
        pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if isinstance(one, Tensor)]
        same = all(torch.equal(one, other) for one, other in pairs)
        assert same, f"{name}: predictions differ from call to call: is something random in evaluation mode?"
    return loaded


def _installed_formats() -> list[str]:
    return [name for name, modules in NEEDED.items() if all(map(find_spec, modules))]


@torch.inference_mode()
def _check_export(model: BaseTask, name: str, folder: Path) -> None:
    chosen, portable = FORMATS[name], Portable(model).eval()
    samples = some_inputs(model, 7)
    card = ModelCard(type(model).__name__, tuple(getattr(model, "class_names", ())), model.input_shape)
    file = folder / f"model{chosen.suffix}"
    try:
        with torch.inference_mode(False):
            chosen.write(portable, samples[:2].clone(), card, file)
    except Exception as error:  # a forward that is traced may fail in any way
        reason = (str(error).splitlines() or [""])[0]
        raise AssertionError(f"{card.model} can't be exported to {name}: {reason}") from error
    worst = max(max(difference(portable, chosen.read(file), samples[:size])) for size in (1, 2, 7))
    assert worst <= TOLERANCE, f"{card.model} exported to {name} differs from the checkpoint by {worst:.1e}"


def _copy_of(data: LightningDataModule) -> LightningDataModule:
    """Return a data module of the same arguments that has read nothing."""
    arguments = {name: value for name, value in data.hparams.items() if not name.startswith("_")}
    return type(data)(**arguments)


def _read_splits(data: LightningDataModule, seed: int) -> dict[str, list[bytes]]:
    """Return the samples of each split as bytes: training samples in any order, others in theirs.

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
            loaders = getattr(data, f"{split}_dataloader")()
            splits[split] = [sample for batch in _batches(loaders) for sample in _samples(batch)]
    splits.get("train", []).sort()
    return splits


def _batches(loaders: Any) -> Iterator[Any]:
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        yield from loader


def _samples(batch: Any) -> Iterator[bytes]:
    tensors = [
        leaf.detach().cpu().contiguous() for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim
    ]
    for row in range(len(tensors[0]) if tensors else 0):
        yield b"|".join(tensor[row].numpy().tobytes() for tensor in tensors if row < len(tensor))


def _check_batches(data: LightningDataModule) -> None:
    """Check that batches of all splits have the same structure, types and shapes."""
    name, known = type(data).__name__, {}
    for split in ("train", "val", "test"):
        if is_overridden(f"{split}_dataloader", data):
            batch = next(_batches(getattr(data, f"{split}_dataloader")()))
            known[split] = [
                (leaf.dtype, tuple(leaf.shape[1:])) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)
            ]
            if isinstance(data, BaseDataModule) and hasattr(data, "input_shape") and known[split]:
                shape = known[split][0][1]
                assert shape == tuple(data.input_shape), (
                    f"{name}: inputs of {split} have shape {shape}, input_shape is {tuple(data.input_shape)}"
                )
    first = next(iter(known))
    for split, found in known.items():
        assert found == known[first], f"{name}: batches of {split} hold {found}, those of {first} {known[first]}"


def _check_classes(data: ClassificationDataModule) -> None:
    name, names = type(data).__name__, tuple(data.class_names)
    assert len(names) == data.num_classes, f"{name}: {len(names)} class_names for {data.num_classes} classes"
    assert len(set(names)) == len(names), f"{name}: two classes have the same name: {names}"
    counts = {}
    for split in ("train", "val", "test"):
        labels = targets_of(getattr(data, split))
        if labels is None:
            return
        assert not labels.is_floating_point(), f"{name}: labels of {split} are {labels.dtype}, not integers"
        low, high = int(labels.min()), int(labels.max())
        assert 0 <= low <= high < data.num_classes, f"{name}: labels of {split} go from {low} to {high}"
        counts[split] = labels.flatten().bincount(minlength=data.num_classes)
    unseen = [names[label] for label in (counts["train"] == 0).nonzero().flatten().tolist()]
    assert not unseen, f"{name}: no training sample of class {', '.join(map(str, unseen))}"
    expected = counts["train"] / counts["train"].sum() * counts["val"].sum()
    lost = [names[label] for label in ((counts["val"] == 0) & (expected >= 3)).nonzero().flatten().tolist()]
    assert not lost, f"{name}: no validation sample of class {', '.join(map(str, lost))}: the split is not stratified"
