import json
import os
import re
import shutil
import statistics
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torchvision import models

from conftest import CONFIGS, Command
from kindling.testing import check_recipe
from ranks import DEVICE, Ranks

RECIPES = sorted(path.relative_to(CONFIGS.parent) for path in CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(path.relative_to(CONFIGS.parent) for path in CONFIGS.glob("with/*.yaml"))
TRACKERS = ("mlflow", "wandb")  # tests/training/test_trackers.py tries both
SEVERAL = {"ddp": 1, "fsdp": 1, "multinode": 2}  # overlays for several processes, with their number of machines
SEARCHES = sorted(path.relative_to(CONFIGS.parent) for path in CONFIGS.glob("search/*.yaml"))


# The accuracies are means of five seeds; one keeps the tests short.
SEEDS = range(5 if "KINDLING_DATA_DIR" in os.environ else 1)


def accuracy(kindling: Command, recipe: str, seed: int, *options: object) -> float:
    result = kindling("fit", "--config", f"configs/{recipe}.yaml", "--seed_everything", seed, *options)
    assert result.code == 0, result.err
    run = max(Path("runs").glob("*/*"), key=lambda path: path.stat().st_mtime)
    value: float = json.loads((run / "test_metrics.json").read_text())["test/accuracy"]
    return value


def test_every_recipe_and_overlay_is_tested() -> None:
    assert {path.stem for path in RECIPES} >= {"quickstart", "synthetic_mlp"}  # other tests use these
    assert {path.stem for path in OVERLAYS} == {"debug", "bf16", "gpu", *SEVERAL, *TRACKERS}
    assert {path.stem for path in SEARCHES} == {"cnn", "table"}  # tests/cli/test_tune.py tries both
    known = {CONFIGS.parent / path for path in RECIPES + OVERLAYS + SEARCHES}
    assert set(CONFIGS.rglob("*")) - known == {CONFIGS / "with", CONFIGS / "search"}


@pytest.fixture
def needed(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[object]]:
    """Return the options that a recipe needs to run in a test: small data in place of the user's."""
    rows = (f"{width % 9},{'big' if width % 9 > 4 else 'small'}\n" for width in range(99))
    Path("table.csv").write_text("width,size\n" + "".join(rows))
    for number in range(20):
        folder = tmp_path / "photos" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 200 * (number % 2), number)).save(folder / f"{number}.png")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return {
        "MNISTDataModule": ["--data.data_dir", mnist, "--data.val_split", "40"],
        "TableDataModule": ["--data.path", "table.csv", "--data.target", "size", "--data.drop", "[]"],
        "ImageFolderDataModule": ["--data.data_dir", "photos"],
    }


SHORT = ["--trainer.max_epochs", "1"]
SHORT += [part for stage in ("train", "val", "test") for part in (f"--trainer.limit_{stage}_batches", "2")]


def prepare(kindling: Command, needed: dict[str, list[object]], recipe: Path) -> list[object]:
    """Create the runs that a recipe starts from, and return the options that it needs in a test."""
    if recipe.stem in ("images_transfer", "mnist_transfer"):  # pretrained weights, in the cache of downloads
        checkpoints = Path(torch.hub.get_dir(), "checkpoints")
        checkpoints.mkdir(parents=True)
        torch.save(models.resnet18().state_dict(), checkpoints / "resnet18-f37072fd.pth")
    if recipe.stem == "digits_transfer":
        base = "fit --model CNNClassifier --model.channels [4] --data MNISTDataModule --data.source sample".split()
        assert kindling(*base, *SHORT, "--run_name", "mnist_cnn_best", "--test_after_fit", "false").code == 0
    if recipe.stem == "mnist_ensemble":
        member = [
            "--config",
            "configs/mnist_cnn_best.yaml",
            "--run_name",
            "member",
            *SHORT,
            "--test_after_fit",
            "false",
        ]
        assert kindling("fit", *member, *needed["MNISTDataModule"]).code == 0
        for number in range(1, 5):
            shutil.copytree("runs/member/version_0", f"runs/member/version_{number}")
    source = yaml.safe_load(recipe.resolve().read_text())["data"]["class_path"].rpartition(".")[2]
    return needed.get(source, [])


def without_own_messages(err: str) -> str:
    """Return the lines of stderr other than those in which Kindling names what it has chosen."""
    return re.sub(r"(?m)^(--data\.flip (true|false) is chosen: |\w+: images are ).*\n", "", err)


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("shown_warnings")
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipes_run_without_messages_of_libraries(
    kindling: Command, needed: dict[str, list[object]], recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_recipe(recipe, *map(str, prepare(kindling, needed, recipe)))
    assert without_own_messages(capfd.readouterr().err) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("shown_warnings")
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem != "synthetic_mlp")) for path in RECIPES],
    ids=str,
)
def test_recipes_run_with_each_overlay(kindling: Command, needed: dict[str, list[object]], recipe: Path) -> None:
    options = prepare(kindling, needed, recipe)
    for overlay in (path for path in OVERLAYS if path.stem not in ("gpu", *SEVERAL, *TRACKERS)):
        short = [] if overlay.stem == "debug" else SHORT
        result = kindling("fit", "--config", recipe, "--config", overlay, *options, *short)
        assert (result.code, without_own_messages(result.err)) == (0, "")
        assert "test/loss" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("overlay", SEVERAL)
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipes_run_in_several_processes(
    kindling: Command, needed: dict[str, list[object]], recipe: Path, overlay: str
) -> None:
    options = [*prepare(kindling, needed, recipe), *SHORT]
    command = ["fit", "--config", recipe, "--config", f"with/{overlay}", *options]
    results = Ranks(*command, nodes=SEVERAL[overlay], options=DEVICE).wait()
    if overlay == "fsdp" and "transfer" in recipe.stem:
        assert [result.code for result in results] == [1, 1]
        assert "can't unfreeze a backbone during training: use --trainer.strategy ddp" in results[0].err
    else:
        assert [result.code for result in results] == [0, 0], results[0].err + results[1].err
        assert "test/loss" in results[0].out
    assert results[1].out == ""


def test_the_gpu_overlay_says_when_there_is_none(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: False)
    result = kindling("fit", "--config", "configs/quickstart.yaml", "--config", "configs/with/gpu.yaml")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "gpu" in result.err


@pytest.mark.slow
def test_quickstart_reaches_its_accuracy(kindling: Command) -> None:
    assert statistics.mean(accuracy(kindling, "quickstart", seed) for seed in SEEDS) >= 0.98


@pytest.mark.slow
def test_synthetic_mlp_reaches_its_accuracy(kindling: Command) -> None:
    assert statistics.mean(accuracy(kindling, "synthetic_mlp", seed) for seed in SEEDS) >= 0.93


BF16 = ["--config", "configs/with/bf16.yaml"]


@pytest.mark.parametrize(
    ("recipe", "seeds", "goal", "options"),
    [
        ("mnist_mlp", 3, 0.975, []),
        ("mnist_cnn", 3, 0.992, []),
        ("mnist_cnn_fast", 5, 0.99, BF16),
        ("mnist_cnn_fast", 5, 0.994, [*BF16, "--trainer.max_epochs", "3"]),
        ("mnist_cnn_best", 3, 0.995, BF16),
    ],
)
def test_recipes_on_the_full_mnist_reach_their_accuracy(
    kindling: Command, full_mnist: Path, recipe: str, seeds: int, goal: float, options: list[str]
) -> None:
    reached = [accuracy(kindling, recipe, seed, "--data.data_dir", full_mnist, *options) for seed in range(seeds)]
    assert statistics.mean(reached) >= goal


def test_an_ensemble_of_five_fast_networks_beats_its_members(kindling: Command, full_mnist: Path) -> None:
    member = [*BF16, "--trainer.max_epochs", "5", "--run_name", "member", "--data.data_dir", full_mnist]
    alone = [accuracy(kindling, "mnist_cnn_best", seed, *member) for seed in range(5)]
    together = accuracy(kindling, "mnist_ensemble", 42, "--data.data_dir", full_mnist)
    assert together >= max(0.996, statistics.mean(alone))


def few_shot(kindling: Command, *options: object) -> float:
    """Return the mean accuracy of digits_transfer.yaml over seeds, each with other labeled images."""
    seeds = ((seed, ["--data.split_seed", seed, *options]) for seed in SEEDS)
    return statistics.mean(accuracy(kindling, "digits_transfer", seed, *more) for seed, more in seeds)


def test_a_network_trained_on_mnist_transfers_to_other_digits(kindling: Command, full_mnist: Path) -> None:
    accuracy(kindling, "mnist_cnn_best", 0, "--data.data_dir", full_mnist, *BF16, "--trainer.max_epochs", "3")
    scratch = few_shot(kindling, "--model.weights", "none", "--run_name", "scratch")
    assert few_shot(kindling, "--run_name", "tuned") >= scratch + 0.05
    assert few_shot(kindling, "--run_name", "frozen", "--model.unfreeze_epoch", "null") >= scratch + 0.05
