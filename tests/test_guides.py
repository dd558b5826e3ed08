"""The guide docs/your-own.md: its files are written to a new project, and its commands are run."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import f1_score, mean_absolute_error, r2_score, top_k_accuracy_score

from conftest import weights
from kindling.cli import main
from template import ROOT, install, make_repository

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guides")]  # they share the slow commands

CLASSES = ["circle", "square", "triangle"]
IN_BLOCKS = ("kindling new leafnet", "leafnet ", "pytest ")  # the beginnings of commands: no other is shown
# One Python for all commands: each would take seconds to start. An error ends it.
DRIVER = """
import json, shlex, sys
import pytest
from kindling.cli import main

for command in json.load(sys.stdin):
    print(f"$ {command}", flush=True)
    program, *options = shlex.split(command)
    if code := pytest.main(["-q", "-p", "no:cacheprovider", *options]) if program == "pytest" else main(options):
        sys.exit(f"exit code {int(code)}")
"""


class Guide(NamedTuple):
    """The files of a page by their paths, and its commands."""

    files: dict[str, str]
    commands: list[str]


def read_guide(text: str) -> Guide:
    """Return the blocks of a page: of Python and YAML with their paths in the first lines, others as commands."""
    guide = Guide({}, [])
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in ("python", "yaml"):
            (path,) = re.findall(r"\A(?:# yaml-.*\n)?# ([\w/]+\.\w+)", block)
            guide.files[path] = block
        elif language == "bash":
            guide.commands.extend(block.splitlines())
    return guide


GUIDE = read_guide((ROOT / "docs/your-own.md").read_text(encoding="utf-8"))
README = read_guide((ROOT / "README.md").read_text(encoding="utf-8"))


class Project(NamedTuple):
    """A new project with the files of the guide, after all of its commands.

    Attributes:
        folder: Where it is.
        printed: What the commands printed.
    """

    folder: Path
    printed: str

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name / "version_0"

    def metrics(self, name: str) -> dict[str, float]:
        """Return the test metrics of a run."""
        metrics: dict[str, float] = json.loads((self.run(name) / "test_metrics.json").read_text())
        return metrics

    def probabilities(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities (N, classes) and labels (N,) of the test samples of a run."""
        table = pd.read_csv(self.run(name) / "predictions.csv")
        return torch.tensor(table[CLASSES].to_numpy()), torch.tensor(table["label"].map(CLASSES.index).to_numpy())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    parent = tmp_path_factory.mktemp("guides")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(parent)
        patch.setattr("kindling.cli.new.SHARE", make_repository(parent / "share"))
        assert main(["new", "leafnet", "--engine", ">=0.1"]) == 0
    folder = parent / "leafnet"
    source = install(folder)
    for path, code in GUIDE.files.items():
        (folder / path).write_text(code, encoding="utf-8")
    example = "import leafnet; leafnet.LeafDataModule().prepare_data()"  # `make train` has drawn it
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", example], cwd=folder, env=environment, check=True)
    commands = [command for command in GUIDE.commands if "kindling new" not in command]
    process = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env=environment,
        input=json.dumps([*commands, "leafnet fit --help"]),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return Project(folder, process.stdout)


def test_these_tests_run_in_one_worker(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", False):
        pytest.skip("there are no groups: pytest --dist loadgroup")
    assert request.node.nodeid.endswith("@guides")  # otherwise the slow commands would silently run twice


def test_all_commands_are_run() -> None:
    assert len(GUIDE.commands) > 15
    assert [command for command in GUIDE.commands if not command.startswith(IN_BLOCKS)] == []


def test_a_file_is_short() -> None:
    lengths = {path: len(code.splitlines()) for path, code in GUIDE.files.items()}
    assert {path: length for path, length in lengths.items() if length > 25} == {}
    assert README.files.items() <= GUIDE.files.items()


def test_short_names_are_listed(project: Project) -> None:
    shown = project.printed.split("$ leafnet fit --help\n")[-1]
    assert {name for name in ("LeafNet", "LeafDataModule", "WideNet") if name not in shown} == set()


def test_the_model_is_exported_and_its_tests_pass(project: Project) -> None:
    assert (project.run("WideNet-LeafDataModule") / "export/model.onnx").stat().st_size > 1e6
    assert "\n2 passed" in project.printed


@pytest.mark.parametrize("name", ["LeafNet-ShadesDataModule", "shades"])
def test_two_tensors_are_learned(project: Project, name: str) -> None:
    assert project.metrics(name)["test/accuracy"] > 0.9


def test_samples_of_a_dataset_are_split_and_padded(project: Project) -> None:
    probabilities, labels = project.probabilities("LeafNet-SizesDataModule")
    assert len(probabilities) == 120
    assert labels.bincount().tolist() == [40, 40, 40]


def test_the_metrics_are_computed(project: Project) -> None:
    probabilities, labels = project.probabilities("SureNet-LeafDataModule")
    found = project.metrics("SureNet-LeafDataModule")
    assert found["test/top2"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=2), abs=1e-6)
    confidence, predicted = probabilities.max(dim=1)
    mistakes = (predicted != labels) & (confidence >= 0.9)
    assert found["test/sure_mistakes"] == pytest.approx(mistakes.double().mean().item(), abs=1e-6)
    assert "top2" in (project.run("SureNet-LeafDataModule") / "report.html").read_text(encoding="utf-8")


def test_the_loss_is_that_of_the_guide(project: Project) -> None:
    probabilities, labels = project.probabilities("PolyNet-LeafDataModule")
    right = probabilities[range(len(labels)), labels]
    expected = (1 - right - right.log()).mean().item()
    assert project.metrics("PolyNet-LeafDataModule")["test/loss"] == pytest.approx(expected, rel=1e-3)


def test_the_callback_logs(project: Project) -> None:
    with (project.run("baseline") / "metrics.csv").open(newline="") as file:
        norms = [float(row["weight_norm"]) for row in csv.DictReader(file) if row["weight_norm"]]
    last = weights(project.run("baseline") / "checkpoints/last.ckpt")
    squares = sum(value.double().square().sum() for name, value in last.items() if name.endswith(("weight", "bias")))
    assert norms[-1] == pytest.approx(float(squares) ** 0.5, rel=1e-5)


def test_numbers_are_predicted(project: Project) -> None:
    name = "ProgressNet-ProgressDataModule"
    table = pd.read_csv(project.run(name) / "predictions.csv")
    assert list(table) == ["row", "target", "prediction"]
    assert table["target"].tolist() == load_diabetes(return_X_y=True)[1][::4].tolist()
    found = project.metrics(name)
    assert found["test/r2"] == pytest.approx(r2_score(table["target"], table["prediction"]), abs=1e-4)
    assert found["test/r2"] > 0.4
    assert found["test/mae"] == pytest.approx(mean_absolute_error(table["target"], table["prediction"]), abs=1e-2)


def test_several_labels_are_predicted(project: Project) -> None:
    name = "TagsNet-TaggedDataModule"
    predicted = torch.cat(torch.load(project.run(name) / "predictions.pt", weights_only=True))
    inputs = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    f1 = f1_score(inputs > 0, predicted > 0.5, average="macro")
    assert project.metrics(name)["test/f1"] == pytest.approx(f1, abs=1e-6)
    assert f1 > 0.95
    assert (project.run(name) / "export/model.onnx").exists()


def test_a_plain_module_has_a_best_checkpoint(project: Project) -> None:
    run = project.run("Autoencoder-LeafDataModule")
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert json.loads((run / "run.json").read_text())["best"]["val/loss"] == pytest.approx(min(losses))
    assert np.diff(losses).max() < 0
