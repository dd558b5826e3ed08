"""The checks that projects call in their own tests: sound models and data pass, and each fault is named."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from modules import (
    GAN,
    LanguageModel,
    MultiLabel,
    MultiLabelDataModule,
    PointsDataModule,
    Segmentation,
    ShapesDataModule,
    TextDataModule,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler

from kindling import (
    ClassificationDataModule,
    ClassificationTask,
    DigitsDataModule,
    MLPClassifier,
    SyntheticDataModule,
)
from kindling.data.datasets import ArrayDataset, subset
from kindling.deploy.export_wrapper import Inputs
from kindling.deploy.formats import FORMATS
from kindling.testing import check_data, check_model, check_recipe

SMALL: dict[str, Any] = {"num_samples": 300, "num_classes": 3}


class Base(ClassificationTask):
    """A small network."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network: Any = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, self.num_classes))


class Unused(Base):
    """A layer that nothing uses."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.forgotten = nn.Linear(3, 3)


class Constant(Base):
    """Constant outputs for all inputs."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(0 * inputs)


class Restless(Base):
    """Adds noise from a generator that checkpoints do not contain."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise = torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            inputs = inputs + 0.01 * torch.randn(inputs.shape, generator=self.noise)
        return super().forward(inputs)


class Random(Base):
    """Random outputs, even in evaluation mode."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs) + torch.rand(())


class Branching(Base):
    """Control flow that depends on values, which can't be exported."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs if inputs.sum() > 1e6 else inputs + 1e-3)


class Blocked(Base):
    """A layer whose gradient is always zero."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocked = nn.Linear(20, self.num_classes)

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs) + 0 * self.blocked(inputs)


class ZeroPredictions(Base):
    """Predicts zeros for all inputs."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.zeros(len(batch[0]), self.num_classes)


class Forgetful(Base):
    """Predictions depend on a number that checkpoints do not contain."""

    steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        return super().training_step(batch, batch_idx)

    def to_prediction(self, outputs: Tensor) -> Any:
        return super().to_prediction(outputs) * (1 + self.steps)


class Drifting(LanguageModel):
    """Validation metrics depend on a number that checkpoints do not contain."""

    steps = 0

    def training_step(self, batch: Any) -> Tensor:
        self.steps += 1
        return super().training_step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("valid_steps", float(self.steps), batch_size=1)


class Tiring(Base):
    """Stops its third fit after the first batch."""

    trainings = 0

    def on_train_start(self) -> None:
        type(self).trainings += 1

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.should_stop = self.trainings == 3


ONE_BATCH = SyntheticDataModule(**SMALL, batch_size=1000)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Unused, {}, "Unused: no gradient reaches forgotten.bias, forgotten.weight"),
        (Constant, {"overfits": True}, "Constant cannot overfit one batch: "),
        (
            Restless,
            {},
            "Restless: a run that was killed before training batch 7 of 8 resumes to other weights in network.0.weight",
        ),
        (
            Restless,
            {"data": ONE_BATCH},
            "Restless: a run that was killed before training batch 2 of 2 resumes to other weights",
        ),
        (
            Tiring,
            {},
            "Tiring: a second training with the same seed ended before training batch 7 of 8",
        ),
        (Blocked, {}, "Blocked: no gradient reaches blocked.bias, blocked.weight"),
        (Random, {}, "Random: predictions differ from call to call"),
        (ZeroPredictions, {}, "ZeroPredictions: predict_step does not return to_prediction(self.outputs_for(inputs))"),
        (
            Forgetful,
            {},
            "Forgetful: a loaded checkpoint predicts something else than the model from which it was saved",
        ),
        (
            Drifting,
            {"data": TextDataModule()},
            "Drifting: a loaded checkpoint has validation metrics {'valid_steps': 0.0}",
        ),
        (Branching, {"formats": ["torch_export"]}, "Branching can't be exported to torch_export"),
        (
            Branching,
            {"formats": ["onnx"]},
            "Branching can't be exported to onnx: torch can't convert Branching to ONNX",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_faults_of_a_model_are_named(model: Any, options: dict[str, Any], message: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(AssertionError) as raised:
        check_model(model, **{"data": SyntheticDataModule(**SMALL), "formats": (), "overfits": False, **options})
    assert str(raised.value).startswith(message)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sound_model_passes_without_side_effects(folder: Path) -> None:
    before = set(folder.rglob("*"))
    check_model(Base, SyntheticDataModule(**SMALL), optimizer=partial(torch.optim.Adam, lr=0.01))
    assert set(folder.rglob("*")) == before


def spoil(model: Any, example: Inputs, card: Any, path: Path) -> None:
    """Write a model of other weights."""
    model.model.network[0].weight.data += 1
    FORMATS["torch_export"].write(model, example, card, path)
    model.model.network[0].weight.data -= 1


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("needs", [(), ("extra", "no_such_module")])
@pytest.mark.parametrize("model", [Base, MultiLabel])
def test_all_formats_that_can_be_written_are_checked(
    monkeypatch: pytest.MonkeyPatch, model: Any, needs: tuple[str, ...]
) -> None:
    spoilt = FORMATS["torch_export"]._replace(write=spoil, needs=needs, served_only=True)
    monkeypatch.setattr("kindling.testing.checkpoints.FORMATS", {"spoilt": spoilt})
    data = SyntheticDataModule(**SMALL) if model is Base else MultiLabelDataModule()
    fails = model is Base and not needs
    with (
        pytest.raises(AssertionError, match="Base exported to spoilt: the exported output probabilities differs")
        if fails
        else nullcontext()
    ):
        check_model(model, data, overfits=False)


@pytest.mark.slow
def test_plain_modules_pass() -> None:
    check_model(Segmentation, ShapesDataModule(), num_classes=2, overfits=False)
    check_model(GAN, PointsDataModule())
    check_model(LanguageModel, TextDataModule())


class Leaky(SyntheticDataModule):
    """Test samples from the training split."""

    def load(self, split: str) -> Any:
        return super().load("train")


class Unrepeatable(SyntheticDataModule):
    """Different samples each time they are loaded."""

    def load(self, split: str) -> Any:
        inputs, labels = super().load(split)  # type: ignore[arg-type]
        return inputs + torch.rand(()), labels


class Misshapen(SyntheticDataModule):
    """States another shape than its inputs have."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_shape = (20,)

    def load(self, split: str) -> Any:
        inputs, labels = super().load(split)  # type: ignore[arg-type]
        return inputs[:, :7], labels


class Misnamed(SyntheticDataModule):
    """Two classes with the same name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = ("cat", "dog", "cat")


class Unstratified(ClassificationDataModule):
    """Validates on the first class only."""

    num_classes, class_names, input_shape = 2, ("a", "b"), (3,)

    def load(self, split: str) -> Any:
        inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(len(split)))
        return inputs, torch.arange(200) // 100

    def load_training(self) -> Any:
        dataset = torch.utils.data.TensorDataset(*self.load("train"))
        dataset.targets = self.load("train")[1]  # type: ignore[attr-defined]
        return torch.utils.data.Subset(dataset, range(40, 200)), torch.utils.data.Subset(dataset, range(40))


class Lopsided(Unstratified):
    """Validates on 1 sample of the second class although 16 are expected."""

    def load(self, split: str) -> Any:
        inputs, labels = super().load(split)
        return inputs, torch.arange(len(labels)) % 5 % 2  # 2 of 5

    def load_training(self) -> Any:
        dataset = ArrayDataset(*self.load("train"))
        chosen = torch.cat([(dataset.labels == label).nonzero()[:size, 0] for label, size in ((0, 39), (1, 1))])
        rest = torch.tensor(sorted({*range(200)} - {*chosen.tolist()}))
        return subset(dataset, rest), subset(dataset, chosen)


class Detection(LightningDataModule):
    """Batches that are lists of images of different sizes."""

    def __init__(self, sizes: dict[str, int], overlap: int = 0) -> None:  # not kept as hyperparameters
        super().__init__()
        self.sizes, self.overlap = sizes, overlap

    def setup(self, stage: str) -> None:
        noise = torch.Generator().manual_seed(0)
        images = [torch.rand(3, 8 + number % 3, 8, generator=noise) for number in range(sum(self.sizes.values()))]
        self.train = images[: self.sizes["train"]]
        self.val = images[self.sizes["train"] - self.overlap :]

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=4, shuffle=True, collate_fn=list)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=3, collate_fn=list)  # type: ignore[arg-type]


class Stream:
    """Batches that do not come from a dataset."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Sampled(LightningDataModule):
    """One dataset for both splits, selected by samplers; a second validation loader streams it."""

    def train_dataloader(self) -> Any:
        return DataLoader(torch.eye(20), batch_size=4, sampler=SubsetRandomSampler(range(15)))  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        rows: DataLoader[Any] = DataLoader(torch.eye(20), batch_size=4, sampler=range(15, 18))  # type: ignore[arg-type]
        return [rows, Stream(torch.eye(20)[18:])]


class Ragged(LightningDataModule):
    """Batches that can't be separated into samples."""

    def train_dataloader(self) -> Any:
        return Stream((torch.zeros(3, 2), torch.zeros(5)))

    val_dataloader = train_dataloader


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Lopsided(), "Lopsided: the validation split is not stratified: 39 of class a, expected 24; 1 of class b"),
        (Detection({"train": 40, "val": 10}, 3), "Detection: 3 of 13 samples of val are in train, too"),
        (Ragged(), "Ragged: the samples of val cannot be compared"),
        (Leaky(**SMALL), "Leaky: 216 of 240 samples of test are in train, too"),
        (Unrepeatable(**SMALL), "Unrepeatable: the val split differs when it is read again"),
        (Misshapen(**SMALL), "Misshapen: inputs of train have shape (7,), input_shape is (20,)"),
        (Misnamed(**SMALL), "Misnamed: two classes have the same name"),
        (
            Unstratified(),
            "Unstratified: the validation split is not stratified: 40 of class a, expected 20; 0 of class b",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_faults_of_data_are_named(data: Any, message: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check_data(data)
    assert str(raised.value).startswith(message)


SOUND = [
    SyntheticDataModule(**SMALL),
    DigitsDataModule(),
    ShapesDataModule(),
    Detection({"train": 40, "val": 10}),
    Sampled(),
]


@pytest.mark.parametrize("data", SOUND, ids=lambda data: type(data).__name__)
def test_sound_data_passes(data: Any) -> None:
    check_data(data)


def test_similar_samples_can_be_allowed() -> None:
    with pytest.raises(AssertionError, match="3 of 13 samples of val are in train"):
        check_data(Detection({"train": 40, "val": 10}, 3))
    check_data(Detection({"train": 40, "val": 10}, 3), shared=0.25)


def test_validation_of_a_source_of_its_own_need_not_be_stratified() -> None:
    check_data(Lopsided(), stratified=False)


def test_a_recipe_trains_and_leaves_no_run(folder: Path) -> None:
    check_recipe("configs/synthetic_mlp.yaml")
    assert not list(Path("runs").glob("*"))


def test_a_recipe_need_not_test_or_predict(folder: Path) -> None:
    recipe = {"model": {"class_path": "modules.GAN"}, "data": {"class_path": "modules.PointsDataModule"}}
    Path("configs/gan.yaml").write_text(yaml.safe_dump(recipe))
    check_recipe("configs/gan.yaml")


def test_a_recipe_that_fails_is_named(folder: Path) -> None:
    Path("configs/broken.yaml").write_text("model: {class_path: MLPClassifier, init_args: {hidden: [0]}}\n")
    reason = "hidden layers need a width of at least 1"
    with pytest.raises(
        AssertionError, match=f"^configs/broken.yaml: {reason}.*kindling fit --config configs/broken.yaml"
    ):
        check_recipe("configs/broken.yaml", "--data", "SyntheticDataModule")
    assert not Path("runs").exists() or not list(Path("runs").glob("*"))


@pytest.mark.slow
def test_the_checks_use_the_model_as_users_do() -> None:
    check_model(MLPClassifier, DigitsDataModule(), hidden=(32,), formats=["torch_export"])
