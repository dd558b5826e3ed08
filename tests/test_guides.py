"""The guides of README and docs/your-own.md: what they show is put where they say, in a copy, and run as they say."""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_absolute_error, r2_score, top_k_accuracy_score

from conftest import CONFIGS, weights

pytestmark = pytest.mark.xdist_group("guides")  # they share what takes long

ROOT = CONFIGS.parent
PACKAGE = "src/kindling"

# One Python for all commands: each would take seconds to start.
DRIVER = """
import json, shlex, sys
import pytest
from kindling.cli import main

commands, tests = json.load(sys.stdin)
for command in commands:
    print(f"$ {command}", flush=True)
    if code := main(shlex.split(command)[1:]):
        sys.exit(code)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *tests]))
"""


class Guide(NamedTuple):
    """What a page shows: Python files with the folder that they belong in, recipes and plug-ins, and commands."""

    files: list[tuple[str, str]]
    recipes: list[str]
    commands: list[str]


def read_guide(text: str) -> Guide:
    """Finds the blocks of a page; a file belongs in the folder of the package that was named last before it."""
    guide, folder = Guide([], [], []), ""
    for part in re.finditer(r"```(\w*)\n(.*?)```|`(src/kindling/\w+)/[^`]*`|`(kindling fit [^`]+)`", text, re.DOTALL):
        kind, block, named, command = part.groups()
        folder = named or folder
        if kind == "python" and not block.startswith("# "):
            guide.files.append((folder, block))
        elif kind in ("python", "yaml"):  # whose first line names it
            guide.recipes.append(block)
        elif not kind:
            guide.commands.extend([command] if command else (block or "").splitlines())
    return guide


def add_class(folder: Path, code: str) -> str:
    """Writes a file, and the name of its last class into the package's `__init__`; gives the name."""
    *_, name = (node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef))
    (folder / f"{name.lower()}.py").write_text(code)
    init = folder / "__init__.py"
    before, after = init.read_text().split("__all__ = [")
    package = ".".join(folder.parts[-2:])
    init.write_text(f'{before}from {package}.{name.lower()} import {name}\n\n__all__ = ["{name}", {after}')
    return name


readme = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Make it your own\n")[1].split("\n## ")[0]
README, GUIDES = read_guide(readme), read_guide((ROOT / "docs/your-own.md").read_text(encoding="utf-8"))


class Copy(NamedTuple):
    """The project with everything from the guides in it, after all of their commands.

    Attributes:
        folder: Where it is.
        names: Of the classes that were added.
        printed: What the commands printed.
    """

    folder: Path
    names: list[str]
    printed: str

    def run(self, name: str) -> Path:
        """A run of the recipe, or of the classes."""
        return self.folder / "runs" / name / "version_0"

    def metrics(self, name: str) -> dict[str, float]:
        """What the test of a run has measured."""
        figures: dict[str, float] = json.loads((self.run(name) / "test_metrics.json").read_text())
        return figures

    def probabilities(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities (N, classes) and labels (N,) of a test, of ten digits."""
        table = pd.read_csv(self.run(name) / "predictions.csv")
        return torch.tensor(table[list("0123456789")].to_numpy()), torch.tensor(table["label"].to_numpy())


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder = tmp_path_factory.mktemp("copy")
    for part in (PACKAGE, "configs", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    names = [add_class(folder / where, code) for where, code in README.files + GUIDES.files]
    for recipe in GUIDES.recipes:
        (folder / recipe.split(":")[0].removeprefix("# ")).write_text(recipe)
    patients = load_diabetes(as_frame=True).frame
    patients.to_csv(folder / "patients.csv", index=False)
    patients.drop(columns="target")[:8].to_csv(folder / "new_patients.csv", index=False)
    commands = [*README.commands, "kindling export --ckpt_path best", *GUIDES.commands, "kindling fit --help"]
    tests = ["tests/models/test_every_model.py", "tests/test_recipes.py", "-k", "Wide or MLPReg or synthetic_sgd"]
    process = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src")},
        input=json.dumps([commands, tests]),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return Copy(folder, names, process.stdout)


def test_these_tests_are_one_group_of_workers(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", False):
        pytest.skip("there are no groups: pytest --dist loadgroup")
    assert request.node.nodeid.endswith("@guides")  # else what takes long would be made twice, without a word


def test_a_model_is_one_short_file() -> None:
    models = [code for where, code in README.files if where.endswith("models")]
    assert models
    assert all(len(code.splitlines()) <= 25 for code in models)


def test_what_was_added_is_listed_and_covered_by_the_tests_there_are(copy: Copy) -> None:
    assert len(copy.names) == 7
    shown = copy.printed.split("$ kindling fit --help\n")[-1]
    for name in set(copy.names) - {"WeightNorm"}:  # the help names models and data sources
        assert name in shown
    assert "\n3 passed" in shown


def test_the_metric_is_measured(copy: Copy) -> None:
    probabilities, labels = copy.probabilities("TwoGuessesClassifier-DigitsDataModule")
    found = copy.metrics("TwoGuessesClassifier-DigitsDataModule")
    assert found["test/top2"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=2), abs=1e-6)
    assert found["test/top2"] > found["test/accuracy"]
    confidence, guesses = probabilities.max(dim=1)
    sure = (guesses != labels) & (confidence >= 0.9)
    assert found["test/sure_mistakes"] == pytest.approx(sure.double().mean().item(), abs=1e-6)
    assert "top2" in (copy.run("TwoGuessesClassifier-DigitsDataModule") / "report.html").read_text()


def test_the_loss_is_the_one_that_was_written(copy: Copy) -> None:
    probabilities, labels = copy.probabilities("FocalClassifier-DigitsDataModule")
    sure = probabilities[range(len(labels)), labels]
    found = copy.metrics("FocalClassifier-DigitsDataModule")
    assert found["test/loss"] == pytest.approx((-(1 - sure) * sure.log()).mean().item(), rel=1e-3)
    assert found["test/accuracy"] > 0.9
    report = (copy.run("FocalClassifier-DigitsDataModule") / "report.html").read_text(encoding="utf-8")
    low, high = map(float, re.findall(r"loss<b>[^<]*</b><span>([\d.]+) to ([\d.]+)<", report)[0])
    assert low < found["test/loss"] < high


def test_the_callback_logs(copy: Copy) -> None:
    with (copy.run("synthetic_mlp") / "metrics.csv").open(newline="") as file:
        norms = [float(row["weight_norm"]) for row in csv.DictReader(file) if row["weight_norm"]]
    names = ("weight", "bias")
    last = weights(copy.run("synthetic_mlp") / "checkpoints/last.ckpt")
    squares = sum(value.double().square().sum() for name, value in last.items() if name.endswith(names))
    assert norms[-1] == pytest.approx(float(squares) ** 0.5, rel=1e-5)


def test_numbers_are_predicted(copy: Copy) -> None:
    name = "MLPRegressor-NumbersDataModule"
    table = pd.read_csv(copy.run(name) / "predictions.csv")
    assert list(table) == ["row", "label", "prediction"]
    found = copy.metrics(name)
    assert found["test/r2"] == pytest.approx(r2_score(table["label"], table["prediction"]), abs=1e-4)
    assert found["test/mae"] == pytest.approx(mean_absolute_error(table["label"], table["prediction"]), abs=1e-2)
    scale = float(weights(copy.run(name) / "checkpoints/best.ckpt")["scale"])
    labels = pd.read_csv(copy.folder / "patients.csv")["target"]
    assert scale == pytest.approx(labels.std(), rel=0.1)  # of three quarters of them
    errors = np.square(table["label"] - table["prediction"])
    assert found["test/loss"] == pytest.approx(errors.mean() / scale**2, rel=1e-3)
    assert found["test/r2"] > 0.4
    new = pd.read_csv(copy.run(name) / "predictions_new_patients.csv")
    assert list(new) == ["row", "prediction"]
    assert len(new) == 8
    assert new["prediction"][::4].tolist() == pytest.approx(table["prediction"][:2].tolist(), rel=1e-4)  # every fourth
    assert (copy.run(name) / "training_history.png").exists()
    assert not (copy.run(name) / "report.html").exists()
