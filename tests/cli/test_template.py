"""The project that `kindling new` creates: small, self-contained, and all its commands work."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import yaml
from copier import run_copy

from conftest import Command
from template import ROOT, TASKS, files, install

LICENSES = {"MIT": "MIT License", "BSD-3-Clause": "BSD 3-Clause", "Apache-2.0": "Apache License", "none": "reserved."}
ALLOWED = (  # files that may mention the engine
    r"import kindling|from kindling(\.testing|\.cli|\.runs)? import .*|class \w+\(kindling\.\w+\):",
    r' *"kindling-ml(>=0\.1| @ git\+file://.*)",|\.venv/bin/pip uninstall --yes kindling-ml',
    r'\[project\.entry-points\."kindling\.plugins"\]|[\w-]+ = "kindling\.cli:program"',
    r"Made with .*Kindling.*\.|_src_path: .*",
    r"\.venv/bin/pip install --upgrade 'kindling-ml>=0\.1' .*",
    r"# yaml-language-server: \$schema=\.\./\.kindling/schema\.json|/\.kindling/",
)


@pytest.fixture
def project(kindling: Command, request: pytest.FixtureRequest, plain_template: Path) -> Path:
    """Create a project for a task, change to it, and make its package importable."""
    options = ["--task", request.param, "--engine", ">=0.1", "--author", "Ada"]
    assert kindling("new", f"{request.param}net", *options).code == 0
    patch = request.getfixturevalue("monkeypatch")
    patch.chdir(f"{request.param}net")
    patch.syspath_prepend(str(install(Path.cwd())))
    return Path.cwd()


def code_of(notebook: str) -> str:
    cells = json.loads(notebook)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def ruff(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("task", "license_name"), [("own", "MIT"), ("table", "MIT"), *(("images", name) for name in LICENSES)]
)
@pytest.mark.usefixtures("plain_template")
def test_a_project_is_small_and_mentions_the_engine_only_as_a_dependency(
    kindling: Command, task: str, license_name: str
) -> None:
    options = ["--task", task, "--license", license_name, "--engine", ">=0.1"]
    assert kindling("new", "my_net", *options, "--description", "Leaves").code == 0
    found = files(Path("my_net"))
    check_small(found)
    for path, text in found.items():
        assert not re.search(r"\{\{ |\{%|[ \t]$|\n\n\n\Z", text.replace("${{ ", ""), re.MULTILINE), path
        assert text.strip("\n") + "\n" == text, path
    assert LICENSES[license_name] in found["LICENSE"]
    build = tomllib.loads(found["pyproject.toml"])["project"]
    assert build["license"] == ("LicenseRef-Proprietary" if license_name == "none" else license_name)
    assert build["scripts"] == {"my-net": "kindling.cli:program"}
    assert build["entry-points"] == {"kindling.plugins": {"my_net": "my_net"}}


def check_small(found: dict[str, str]) -> None:
    """Check the size of a project, and that it mentions the engine only as a dependency and in one line of credit."""
    assert len(found) <= 20
    assert sum(len(text.splitlines()) for text in found.values()) <= 600
    named = [
        (path, line)
        for path, text in found.items()
        for line in (code_of(text) if path.endswith(".ipynb") else text).splitlines()
        if "kindling" in line.lower()
    ]
    assert [each for each in named if not any(re.fullmatch(allowed, each[1]) for allowed in ALLOWED)] == []
    assert [path for path, line in named if line.startswith("Made with")] == ["README.md"]


@pytest.mark.parametrize("task", TASKS)
def test_a_project_from_a_repository_is_as_small(repository: Path, tmp_path: Path, task: str) -> None:
    answers = {"name": "my_net", "task": task, "license": "Apache-2.0"}  # the longest
    run_copy(f"git+file://{repository}", tmp_path / "my_net", answers, defaults=True, quiet=True)
    found = files(tmp_path / "my_net")
    check_small(found)
    assert ".github/workflows/update.yml" in found


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "name",
    [
        "A Long-Name_That Is Allowed 12",
        "net",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ab", "CIFAR 10", "unet")),
    ],
)
@pytest.mark.usefixtures("plain_template")
def test_the_code_passes_ruff_for_any_project_name(kindling: Command, name: str) -> None:
    for task in TASKS:
        assert kindling("new", task, "--name", name, "--task", task).code == 0
    assert ruff(Path.cwd(), "check", ".").stdout == "All checks passed!\n"
    assert ruff(Path.cwd(), "format", "--check", ".").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("project", TASKS, indirect=True)
def test_the_code_passes_mypy(project: Path) -> None:
    process = subprocess.run([sys.executable, "-m", "mypy"], cwd=project, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize(
    ("project", "figure", "least", "most"),
    [("images", "accuracy", 0.9, 1), ("table", "accuracy", 0.9, 1), ("own", "loss", 0, 0.05)],
    indirect=["project"],
)
def test_the_recipe_learns_the_example_and_the_notebook_shows_it(
    kindling: Command, project: Path, monkeypatch: pytest.MonkeyPatch, figure: str, least: float, most: float
) -> None:
    few = ["--trainer.max_epochs", "4"] if project.name == "imagesnet" else []  # enough for its easy images
    result = kindling("fit", "--config", "baseline", *few)
    lines = [line for line in result.err.splitlines() if not line.startswith(("hint: ", "--data.flip "))]
    assert (result.code, lines) == (0, [])
    metrics = json.loads(Path("runs/baseline/version_0/test_metrics.json").read_text())
    assert least <= metrics[f"test/{figure}"] <= most
    for number in (2, 10):  # of another recipe, with an invalid checkpoint
        for run in (f"runs/other/version_{number}", f"runs/baseline/version_{number}"):
            (Path(run) / "checkpoints").mkdir(parents=True)
            (Path(run) / "checkpoints/best.ckpt").touch()
            os.utime(Path(run) / "checkpoints/best.ckpt", (0, 0) if "baseline" in run else None)
    monkeypatch.chdir("notebooks")
    exec(code_of(Path("explore.ipynb").read_text()), {"__name__": "notebook"})  # it changes the working directory
    plt.close("all")
    assert not Path("runs/baseline/version_1").exists()  # it uses the existing run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("project", "options"),
    [("table", ["-p", "one_format"]), *(pytest.param(task, [], marks=pytest.mark.slow) for task in TASKS)],
    indirect=["project"],
)
def test_its_own_tests_pass(project: Path, options: list[str], tmp_path: Path) -> None:
    # All export formats take 20 s.
    plugin = tmp_path / "plugins" / "one_format.py"
    plugin.parent.mkdir()
    plugin.write_text(
        "from kindling.deploy.formats import FORMATS\n"
        "for name in FORMATS.keys() - {'torchscript'}:\n    del FORMATS[name]\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    path = os.pathsep.join(map(str, (project / "src", plugin.parent)))
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    assert re.search(r"^3 passed in", process.stdout, re.MULTILINE), process.stdout  # no warnings
    assert Path("data").exists() is False  # nothing is left


def test_workflows_and_hooks_are_sound() -> None:
    hooks = yaml.safe_load((ROOT / "template/.pre-commit-config.yaml").read_text())
    ours = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["rev"] for repo in hooks["repos"]] == [repo["rev"] for repo in ours["repos"] if "ruff" in repo["repo"]]
    makefile = (ROOT / "template/Makefile.jinja").read_text()
    for path in (ROOT / "template/.github/workflows").iterdir():
        workflow: dict[Any, Any] = yaml.safe_load(path.read_text())
        (job,) = workflow["jobs"].values()
        commands = "\n".join(step.get("run", "") for step in job["steps"])
        assert all(f"\n{target}:" in makefile for target in re.findall(r"make (\w+)", commands))
        assert "make test" in commands or "copier update" in commands
        assert ("update.yml" in path.name) == ("schedule" in workflow[True])  # YAML parses `on` as True
