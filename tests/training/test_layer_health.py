import re

import pytest
from lightning.pytorch import Trainer

from conftest import Command
from helpers import DeadClassifier
from kindling import CNNClassifier, MNISTDataModule, SyntheticDataModule
from kindling.training import LayerHealthMonitor
from kindling.training.layer_health import gradient_sizes

pytestmark = pytest.mark.usefixtures("console_logs")

SHORT = (
    "--data SyntheticDataModule --data.num_samples 300 --data.batch_size 32 --trainer.max_epochs 4 --run_name tiny "
    "--test_after_fit false --early_stopping.patience null --watch"
).split()


def watched(out: str) -> list[str]:
    kinds = ("dead units: ", "vanishing gradients: ", "exploding gradients: ")
    return [line for line in out.splitlines() if line.startswith(kinds)]


def test_dead_units_are_counted_once(kindling: Command) -> None:
    lines = watched(kindling("fit", "--model", "helpers.DeadClassifier", *SHORT).err)
    assert lines == ["dead units: network.2: 30 of 40 units were zero for every sample of epoch 1"]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_relu_used_twice_is_monitored_at_each_place(kindling: Command, batch_size: int) -> None:
    few = ["--data.batch_size", batch_size, "--trainer.max_epochs", 1]
    result = kindling("fit", "--model", "helpers.SharedClassifier", *SHORT, *few)
    assert result.code == 0, result.err
    (line,) = [line for line in watched(result.err) if "dead" in line]
    assert line.startswith("dead units: network.1 (call 2 per forward pass): 10 of 16 units were zero for every sample")


@pytest.mark.slow
def test_layers_with_vanishing_gradients_are_reported_together(kindling: Command) -> None:
    (line,) = watched(kindling("fit", "--model", "helpers.SigmoidClassifier", *SHORT).err)
    assert re.fullmatch(
        r"vanishing gradients: network.0, network.2, network.4 and 2\d more: 0 to \S+ of the gradient of network.60 in "
        "step 21",
        line,
    )


def test_an_exploding_gradient_is_reported_in_the_first_step(kindling: Command) -> None:
    lines = watched(kindling("fit", "--model", "helpers.LargeWeightsClassifier", *SHORT).err)
    assert lines[0].startswith("exploding gradients: network.5: ")
    assert "in step 1," in lines[0]


def test_a_learning_rate_that_is_far_too_high_is_reported(kindling: Command) -> None:
    result = kindling("fit", "--model", "MLPClassifier", "--model.optimizer.lr", "10", *SHORT)
    assert "exploding gradients: network." in watched(result.err)[0]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["quickstart", "synthetic_mlp"])
def test_sound_recipes_have_no_findings(kindling: Command, recipe: str) -> None:
    few = ["--trainer.limit_train_batches", "40", "--trainer.max_epochs", "2", "--test_after_fit", "false"]
    assert watched(kindling("fit", "--config", f"configs/{recipe}.yaml", "--watch", *few).err) == []


@pytest.mark.slow
def test_a_frozen_backbone_is_not_reported(kindling: Command) -> None:
    few = "--trainer.max_epochs 1 --test_after_fit false".split()
    base = "--model CNNClassifier --model.channels [4,8] --data MNISTDataModule --data.source sample --run_name base"
    assert kindling("fit", *base.split(), *few).code == 0
    result = kindling(
        *("fit", "--config", "configs/digits_transfer.yaml", "--model.backbone", "runs/base", "--watch"),
        *("--model.unfreeze_epoch", "3", "--trainer.max_epochs", "6", "--test_after_fit", "false"),
    )
    assert (result.code, watched(result.err)) == (0, [])


def test_it_works_in_python_and_removes_its_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    data = SyntheticDataModule(num_samples=300)
    model = DeadClassifier.for_data(data)
    Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[LayerHealthMonitor()]
    ).fit(model, data)
    assert len(watched(capsys.readouterr().err)) == 1
    assert not any(module._forward_hooks for module in model.network.modules())


def test_gradients_are_root_mean_squares_by_layer() -> None:
    data = MNISTDataModule(source="sample")
    model = CNNClassifier.for_data(data, channels=(2,))
    model.network.requires_grad_(False)
    weight = model.network.get_parameter("0.weight").requires_grad_()
    assert gradient_sizes(model) == {"network.0": 0}
    (3 * weight.sum()).backward()  # type: ignore[no-untyped-call]
    assert gradient_sizes(model) == {"network.0": pytest.approx(3)}
