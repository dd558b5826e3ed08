"""Recipes are found by name from any folder; paths and the project's recipes take precedence."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import CONFIGS, TINY, Command
from kindling.cli.recipes import describe, find_recipe, find_recipes, list_recipes

FAST = ["--trainer.fast_dev_run", "1"]
OVERLAY = "# Two epochs.\ntrainer:\n  max_epochs: 2\n"


@pytest.fixture
def empty(folder: Path) -> Path:
    """Remove the recipes of the current folder."""
    shutil.rmtree(folder / "configs")
    return folder


@pytest.mark.usefixtures("empty")
def test_recipes_and_overlays_are_found_by_name(kindling: Command) -> None:
    result = kindling("fit", "--config", "quickstart", "--config=with/bf16", "-c", "with/debug.yaml", "--print_config")
    assert (result.code, result.err) == (0, "")
    config = yaml.safe_load(result.out)
    assert config["model"]["class_path"] == "kindling.CNNClassifier"
    assert (config["trainer"]["precision"], config["trainer"]["fast_dev_run"]) == ("bf16-mixed", 3)


@pytest.mark.usefixtures("empty")
def test_all_shipped_recipes_are_found_by_name() -> None:
    recipes = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("with/*.yaml")])
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in recipes]
    assert len(names) > 10
    assert list_recipes().keys() == set(names)
    assert [Path(find_recipe(name)).read_bytes() for name in names] == [path.read_bytes() for path in recipes]


def test_a_typed_path_wins_over_a_project_recipe_and_that_over_a_shipped_one(empty: Path) -> None:
    own = empty / "configs" / "quickstart.yaml"
    own.parent.mkdir()
    own.write_text(OVERLAY)
    assert find_recipe("quickstart") == "configs/quickstart.yaml"
    assert find_recipe("quickstart.yaml") == "configs/quickstart.yaml"
    (empty / "quickstart.yaml").write_text(OVERLAY)
    (empty / "quickstart").mkdir()  # not a recipe
    assert find_recipe("quickstart.yaml") == "quickstart.yaml"
    assert find_recipe("quickstart") == "configs/quickstart.yaml"
    assert find_recipe("{seed_everything: 1}") == "{seed_everything: 1}"
    assert find_recipes(["--model.name", "quickstart", "-cwith/bf16"])[:2] == ["--model.name", "quickstart"]


@pytest.mark.usefixtures("empty")
def test_the_run_is_named_after_the_recipe_and_resumes(kindling: Command) -> None:
    Path("configs").mkdir()
    Path("configs/small.yml").write_text(OVERLAY)
    options = [*TINY[: TINY.index("--run_name")], *TINY[TINY.index("--run_name") + 2 :]]
    assert kindling("fit", *options, "--config", "small", "--trainer.max_epochs", "1").code == 0
    record = json.loads(Path("runs/small/version_0/run.json").read_text())
    assert record["recipe"] == "small"
    assert "--config small" in record["commands"][0]
    assert kindling("fit", "--ckpt_path", "last", "--config", "small").code == 0  # now two epochs
    assert json.loads(Path("runs/small/version_0/run.json").read_text())["epochs"] == 2


def test_the_help_page_lists_project_recipes_first(kindling: Command, empty: Path) -> None:
    (empty / "configs").mkdir()
    (empty / "configs" / "zebra.yaml").write_text(f"# yaml-language-server: $schema=schema.json\n{OVERLAY}")
    lines = kindling("fit", "--help").out.partition("\nrecipes:\n")[2].splitlines()
    assert lines[0].split() == ["zebra", "Two", "epochs."]
    assert {line.split()[0] for line in lines if line[2] != " "} == list_recipes().keys()
    assert all(describe(path) for path in list_recipes().values())


def test_what_is_typed_wins_over_a_recipe_wherever_it_stands(kindling: Command) -> None:
    before = ["--trainer.max_epochs", "3", "--seed_everything", "7"]
    result = kindling("fit", *before, "--config", "quickstart", "--model.dropout", "0.5", "--print_config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert (config["trainer"]["max_epochs"], config["seed_everything"]) == (3, 7)
    assert config["model"]["init_args"]["dropout"] == 0.5


@pytest.mark.parametrize(("metric", "best"), [("val/accuracy", max), ("val/loss", min)])
def test_the_best_epoch_has_the_best_value_of_the_monitored_metric(
    kindling: Command, metric: str, best: Callable[[list[float]], float]
) -> None:
    options = ["--checkpoint.monitor", metric, "--early_stopping.monitor", metric, "--trainer.max_epochs", "4"]
    assert kindling("fit", *TINY, *options).code == 0
    with Path("runs/tiny/version_0/metrics.csv").open(newline="") as file:
        values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    run = json.loads(Path("runs/tiny/version_0/run.json").read_text())
    assert len({*values}) > 1
    assert run["best"][metric] == pytest.approx(best(values), abs=1e-6)
