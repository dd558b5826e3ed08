"""The checks that projects call in their own tests: what is sound passes, and each fault is named."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import GAN, LanguageModel, PointsDataModule, Segmentation, ShapesDataModule, TextDataModule
from torch import Tensor, nn

from kindling import ClassificationDataModule, ClassificationTask, DigitsDataModule, MLPClassifier, SyntheticDataModule
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
    """The same outputs whatever the inputs."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(0 * inputs)


class Restless(Base):
    """Noise from a generator that no checkpoint holds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise = torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            inputs = inputs + 0.01 * torch.randn(inputs.shape, generator=self.noise)
        return super().forward(inputs)


class Random(Base):
    """Random in evaluation mode, too."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs) + torch.rand(())


class Branching(Base):
    """A path that depends on the values: no export can follow it."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs if inputs.sum() > 1e6 else inputs + 1e-3)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Unused, {}, "Unused: no gradient reaches forgotten.bias, forgotten.weight"),
        (Constant, {}, "Constant: the network can't even learn one batch by heart"),
        (Restless, {}, "Restless: a run that was killed in batch 5 resumes to other weights in network.0.weight"),
        (Random, {"overfits": False, "formats": ()}, "Random: predictions differ from call to call"),
        (Branching, {"overfits": False, "formats": ["torch_export"]}, "Branching can't be exported to torch_export"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_faults_of_a_model_are_named(model: Any, options: dict[str, Any], message: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(AssertionError) as raised:
        check_model(model, SyntheticDataModule(**SMALL), **{"formats": (), **options})
    assert str(raised.value).startswith(message)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sound_model_passes_and_leaves_nothing_behind(folder: Path) -> None:
    before = set(folder.rglob("*"))
    check_model(Base, SyntheticDataModule(**SMALL), optimizer=partial(torch.optim.Adam, lr=0.01))
    assert set(folder.rglob("*")) == before


def test_plain_modules_pass() -> None:
    check_model(Segmentation, ShapesDataModule(), num_classes=2, overfits=False)
    check_model(GAN, PointsDataModule())
    check_model(LanguageModel, TextDataModule())


class Leaky(SyntheticDataModule):
    """Test samples from the training split."""

    def load(self, split: str) -> Any:
        return super().load("train")


class Moody(SyntheticDataModule):
    """Other samples each time."""

    def load(self, split: str) -> Any:
        inputs, labels = super().load(split)  # type: ignore[arg-type]
        return inputs + torch.rand(()), labels


class Misshapen(SyntheticDataModule):
    """Says another shape than its inputs have."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_shape = (20,)

    def load(self, split: str) -> Any:
        inputs, labels = super().load(split)  # type: ignore[arg-type]
        return inputs[:, :7], labels


class Misnamed(SyntheticDataModule):
    """Two classes of one name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = ("cat", "dog", "cat")


class Unstratified(ClassificationDataModule):
    """Validates on the first class alone."""

    num_classes, class_names, input_shape = 2, ("a", "b"), (3,)

    def load(self, split: str) -> Any:
        inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(len(split)))
        return inputs, torch.arange(200) // 100

    def load_training(self) -> Any:
        dataset = torch.utils.data.TensorDataset(*self.load("train"))
        dataset.targets = self.load("train")[1]  # type: ignore[attr-defined]
        return torch.utils.data.Subset(dataset, range(40, 200)), torch.utils.data.Subset(dataset, range(40))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Leaky(**SMALL), "Leaky: 216 of 240 samples of test are in train, too"),
        (Moody(**SMALL), "Moody: the val split differs when it is read again"),
        (Misshapen(**SMALL), "Misshapen: inputs of train have shape (7,), input_shape is (20,)"),
        (Misnamed(**SMALL), "Misnamed: two classes have the same name"),
        (Unstratified(), "Unstratified: no validation sample of class b"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_faults_of_data_are_named(data: Any, message: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check_data(data)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("data", [SyntheticDataModule(**SMALL), DigitsDataModule(), ShapesDataModule()])
def test_sound_data_passes(data: Any) -> None:
    check_data(data)


def test_samples_that_are_alike_by_nature_may_be_allowed() -> None:
    with pytest.raises(AssertionError, match="20 of 20 samples of val are in train"):
        check_data(TextDataModule())
    check_data(TextDataModule(), shared=1.0)


def test_a_recipe_trains_and_leaves_no_run(folder: Path) -> None:
    check_recipe("configs/synthetic_mlp.yaml")
    assert not list(Path("runs").glob("*"))


def test_a_recipe_that_fails_is_named(folder: Path) -> None:
    Path("configs/broken.yaml").write_text("model: {class_path: MLPClassifier, init_args: {hidden: [0]}}\n")
    with pytest.raises(
        AssertionError, match=r"^configs/broken.yaml: `kindling fit --config configs/broken.yaml .* code"
    ):
        check_recipe("configs/broken.yaml", "--data", "SyntheticDataModule")
    assert not Path("runs").exists() or not list(Path("runs").glob("*"))


def test_the_checks_use_the_model_as_users_do() -> None:
    check_model(MLPClassifier, DigitsDataModule(), hidden=(32,), formats=["torch_export"])
