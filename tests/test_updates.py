"""`copier update` in a project that its owner has changed: a real history of the template, merged three-way."""

import re
import shutil
import warnings
from pathlib import Path

import pytest
import yaml
from copier import run_copy, run_update

from template import commit, files, git


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


def release(template: Path) -> None:
    """Version 0.2.0 of the template: a recipe, the Makefile and a new file change."""
    replace(template / "template/configs/baseline.yaml.jinja", "else 10 }}", "else 12 }}")
    replace(template / "template/Makefile.jinja", "PYTHON ?= python3", "PYTHON ?= python3.13")
    (template / "template/NEWS.md").write_text("New in the template.\n")
    commit(template, "Train for longer", "v0.2.0")


@pytest.fixture
def template(repository: Path, tmp_path: Path) -> Path:
    """A template with a history of its own."""
    return Path(shutil.copytree(repository, tmp_path / "kindling"))


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A committed project from version 0.1.0 of the template, which it knows by a URL."""
    folder = tmp_path / "leafnet"
    run_copy(f"git+file://{template}", folder, {"name": "leafnet", "author": "Ada"}, defaults=True, quiet=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Begin")
    return folder


def update(project: Path, **options: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_update(str(project), defaults=True, overwrite=True, quiet=True, **options)  # type: ignore[arg-type]


def test_a_changed_template_is_merged_beside_what_its_owner_changed(template: Path, project: Path) -> None:
    replace(project / "configs/baseline.yaml", "batch_size: 32", "batch_size: 16")  # beside a change of the template
    replace(project / "src/leafnet/models.py", "width: int = 16", "width: int = 24")  # where the template has none
    (project / "src/leafnet/losses.py").write_text('"""My own."""\n')
    (project / "scripts/slurm.sh").unlink()  # not wanted
    commit(project, "Make it mine")
    release(template)
    update(project)
    recipe = yaml.safe_load((project / "configs/baseline.yaml").read_text())
    assert (recipe["data"]["init_args"]["batch_size"], recipe["trainer"]["max_epochs"]) == (16, 12)
    assert "width: int = 24" in (project / "src/leafnet/models.py").read_text()
    assert (project / "src/leafnet/losses.py").exists()
    assert not (project / "scripts/slurm.sh").exists()
    assert (project / "NEWS.md").exists()
    assert "PYTHON ?= python3.13\n" in (project / "Makefile").read_text()
    assert "<<<<<<<" not in "".join(files(project).values())
    changed = {line.split()[-1] for line in git(project, "status", "--porcelain").splitlines()}
    assert changed == {".copier-answers.yml", "Makefile", "NEWS.md", "configs/baseline.yaml", "pyproject.toml"}


def test_the_engine_moves_with_the_template(template: Path, project: Path) -> None:
    assert f'"kindling-ml @ git+file://{template}@v0.1.0"' in (project / "pyproject.toml").read_text()
    replace(project / "pyproject.toml", '    "torch",\n', '    "torch",\n    "timm",\n')  # beside the engine's line
    commit(project, "Use timm")
    release(template)
    update(project)
    build = (project / "pyproject.toml").read_text()
    assert f'"kindling-ml @ git+file://{template}@v0.2.0"' in build
    assert '    "timm",\n' in build
    assert yaml.safe_load((project / ".copier-answers.yml").read_text())["_commit"] == "v0.2.0"


def test_an_engine_that_was_chosen_stays(template: Path, tmp_path: Path) -> None:
    project = tmp_path / "leafnet"
    run_copy(str(template), project, {"name": "leafnet", "engine": ">=0.1"}, defaults=True, quiet=True)
    git(project, "init", "--quiet")
    commit(project, "Begin")
    release(template)
    update(project)
    assert '"kindling-ml>=0.1"' in (project / "pyproject.toml").read_text()
    commit(project, "Update")
    update(project, data={"engine": ">=0.2"})  # until another one is chosen
    assert '"kindling-ml>=0.2"' in (project / "pyproject.toml").read_text()


def test_a_conflict_is_shown_and_loses_nothing(template: Path, project: Path) -> None:
    replace(project / "configs/baseline.yaml", "max_epochs: 10", "max_epochs: 99")
    commit(project, "Train for much longer")
    release(template)
    update(project)
    recipe = (project / "configs/baseline.yaml").read_text()
    assert re.search("<<<<<<<.*max_epochs: 99.*=======.*max_epochs: 12.*>>>>>>>", recipe, re.DOTALL)
    assert git(project, "diff", "--name-only", "--diff-filter=U") == "configs/baseline.yaml"  # unmerged
    assert "PYTHON ?= python3.13\n" in (project / "Makefile").read_text()  # the rest is merged


def test_without_a_newer_version_nothing_changes(project: Path) -> None:
    replace(project / "configs/baseline.yaml", "batch_size: 32", "batch_size: 16")
    commit(project, "Make it mine")
    update(project)
    assert git(project, "status", "--porcelain") == ""
