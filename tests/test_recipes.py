import json
import os
import statistics
from pathlib import Path

import pytest

from conftest import CONFIGS, Command

RECIPES = sorted(path.relative_to(CONFIGS.parent) for path in CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(path.relative_to(CONFIGS.parent) for path in CONFIGS.glob("*/*.yaml"))


# The README's figures are means of five seeds; two keep the tests under four minutes.
SEEDS = range(5 if "KINDLING_DATA_DIR" in os.environ else 2)


def accuracy(kindling: Command, recipe: str, seed: int, *options: object) -> float:
    result = kindling("fit", "--config", f"configs/{recipe}.yaml", "--seed_everything", seed, *options)
    assert result.code == 0, result.err
    run = max(Path("runs").glob("*/*"), key=lambda path: int(path.name.removeprefix("version_")))
    value: float = json.loads((run / "test_metrics.json").read_text())["test/accuracy"]
    return value


def test_every_recipe_and_overlay_is_tested() -> None:
    assert {path.stem for path in RECIPES} >= {
        "quickstart",
        "synthetic_mlp",
        "mnist_mlp",
        "mnist_cnn",
        "mnist_cnn_fast",
        "mnist_cnn_best",
        "table_mlp",
    }
    assert {path.stem for path in OVERLAYS} >= {"debug", "bf16", "gpu"}
    assert set(CONFIGS.rglob("*")) - {CONFIGS.parent / path for path in RECIPES + OVERLAYS} == {CONFIGS / "with"}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipes_run_and_say_what_they_are_for(kindling: Command, mnist: Path, recipe: Path) -> None:
    assert recipe.resolve().read_text().startswith("# ")
    needs: dict[str, list[object]] = {
        "mnist": ["--data.data_dir", mnist, "--data.val_split", "40"],
        "table": ["--data.path", "table.csv", "--data.target", "size"],
    }
    options = needs.get(recipe.stem.split("_")[0], [])
    Path("table.csv").write_text(
        "width,size\n" + "".join(f"{w % 9},{'big' if w % 9 > 4 else 'small'}\n" for w in range(99))
    )
    result = kindling("fit", "--config", recipe, "--config", "configs/with/debug.yaml", *options)
    assert result.code == 0, result.err
    assert "test/accuracy" in result.out


@pytest.mark.parametrize("overlay", [path for path in OVERLAYS if path.stem != "gpu"], ids=str)
def test_overlays_run_on_top_of_a_recipe(kindling: Command, overlay: Path) -> None:
    assert overlay.resolve().read_text().startswith("# ")
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    assert kindling("fit", "--config", "configs/quickstart.yaml", "--config", overlay, *few).code == 0


def test_the_gpu_overlay_says_when_there_is_none(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: False)
    result = kindling("fit", "--config", "configs/quickstart.yaml", "--config", "configs/with/gpu.yaml")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "gpu" in result.err


def test_quickstart_reaches_its_accuracy(kindling: Command) -> None:
    assert statistics.mean(accuracy(kindling, "quickstart", seed) for seed in SEEDS) >= 0.98


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
