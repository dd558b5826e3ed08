"""`copier update` of a modified project: three-way merges with a real git history of the template."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import warnings
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from copier import run_copy, run_update

import wheels
from conftest import Command
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
    """Create a template in a git repository."""
    return Path(shutil.copytree(repository, tmp_path / "kindling"))


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """Create and commit a project from version 0.1.0 of the template, given by its URL."""
    folder = tmp_path / "leafnet"
    run_copy(f"git+file://{template}", folder, {"name": "leafnet", "author": "Ada"}, defaults=True, quiet=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Begin")
    return folder


def update(project: Path, **options: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_update(str(project), defaults=True, overwrite=True, quiet=True, **options)  # type: ignore[arg-type]


def test_template_changes_are_merged_with_those_of_the_owner(template: Path, project: Path) -> None:
    replace(project / "configs/baseline.yaml", "batch_size: auto", "batch_size: 16")  # next to a change in the template
    replace(project / "src/leafnet/models.py", "width: int = 16", "width: int = 24")  # unchanged in the template
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


@pytest.mark.slow
def test_an_update_also_updates_the_engine(template: Path, project: Path) -> None:
    assert f'"kindling-ml @ git+file://localhost{template}@v0.1.0"' in (project / "pyproject.toml").read_text()
    replace(project / "pyproject.toml", '    "torch",\n', '    "torch",\n    "timm",\n')  # beside the engine's line
    commit(project, "Use timm")
    release(template)
    update(project)
    build = (project / "pyproject.toml").read_text()
    assert f'"kindling-ml @ git+file://localhost{template}@v0.2.0"' in build
    assert '    "timm",\n' in build
    assert yaml.safe_load((project / ".copier-answers.yml").read_text())["_commit"] == "v0.2.0"


@pytest.mark.slow
def test_an_update_keeps_a_chosen_engine(template: Path, tmp_path: Path) -> None:
    project = tmp_path / "leafnet"
    run_copy(str(template), project, {"name": "leafnet", "engine": ">=0.1"}, defaults=True, quiet=True)
    git(project, "init", "--quiet")
    commit(project, "Begin")
    release(template)
    update(project)
    assert '"kindling-ml>=0.1"' in (project / "pyproject.toml").read_text()
    commit(project, "Update")
    update(project, data={"engine": ">=0.2"})  # kept until another one is set
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


@pytest.mark.slow
def test_without_a_newer_version_nothing_changes(project: Path) -> None:
    replace(project / "configs/baseline.yaml", "batch_size: auto", "batch_size: 16")
    commit(project, "Make it mine")
    update(project)
    assert git(project, "status", "--porcelain") == ""


def release_engine(template: Path, version: str, tag: str) -> None:
    """Release a version of an empty engine, as a tag of the template's repository and as a wheel."""
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    (template / "pyproject.toml").write_text(f'{build}[project]\nname = "kindling-ml"\nversion = "{version}"\n')
    wheels.write_wheel(template.parent, {"name": "kindling-ml", "version": version})
    (template / "NEWS.md").open("a").write("Something is new.\n")
    commit(template, "Release", tag)


def make_environment(project: Path) -> None:
    """Create the project's .venv with the pip and Copier of the tests, and the wheels it needs next to the project."""
    venv.create(project / ".venv", symlinks=True)
    for tool, module in (("pip", "pip --python .venv/bin/python"), ("copier", "copier")):
        script = project / ".venv/bin" / tool
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        script.chmod(0o755)
    build = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    for line in [*build["dependencies"], *build["optional-dependencies"]["dev"]]:
        name = re.split("[^a-z-]", line)[0]
        if name != "kindling-ml":
            wheels.write_wheel(project.parent, {"name": name, "version": "99"})
    backend = {"hatchling/__init__.py": "", "hatchling/build.py": Path(wheels.__file__).read_text()}
    wheels.write_wheel(project.parent, {"name": "hatchling", "version": "99"}, backend)


def run_offline(project: Path, command: str) -> None:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project.parent)}
    done = subprocess.run(command, shell=True, cwd=project, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def engine_of(project: Path) -> tuple[str, str | None]:
    """Return the version and the source of the engine installed in .venv."""
    (site,) = project.glob(".venv/lib/*/site-packages")
    (engine,) = distributions(name="kindling-ml", path=[str(site)])
    return engine.version, engine.read_text("direct_url.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "tags", "version"),
    [("template", ["", ""], "0.1.1"), (">=0.1", ["v0.1.1", ""], "0.2.0")],
    ids=["a commit of the same version", "a newer wheel"],
)
def test_the_commands_of_the_readme_upgrade_the_engine(
    template: Path, tmp_path: Path, engine: str, tags: list[str], version: str
) -> None:
    git(template, "tag", "--delete", "v0.1.0")
    release_engine(template, "0.1.1", tags[0])
    project, answers = tmp_path / "leafnet", {"name": "leafnet", "engine": engine}
    run_copy(f"git+file://{template}", project, answers, defaults=True, quiet=True)
    git(project, "init", "--quiet")
    commit(project, "Begin")
    make_environment(project)
    (requirement,) = re.findall('"(kindling-ml.*)"', (project / "pyproject.toml").read_text())
    run_offline(project, f".venv/bin/pip install '{requirement}'")
    before = engine_of(project)
    assert before[0] == "0.1.1"
    release_engine(template, version, tags[1])
    (commands,) = re.findall("## Updates\n\n```\n(.*?)```\n", (project / "README.md").read_text(), re.DOTALL)
    run_offline(project, f"set -e\n{commands}")
    assert engine_of(project)[0] == version
    assert engine_of(project) != before


def run_workflow(project: Path, tmp_path: Path) -> str:
    """Run the shell steps of the project's update workflow as GitHub does; return what `gh` was called with."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    shims = {
        "pipx": f'[ "$3" = "copier>=9.19.1,<10" ] && shift 3; exec {sys.executable} -m "$@"',
        "gh": 'case "$2" in setup-git) ;; list) cat "$GH_PROPOSED" ;; *) echo 1 > "$GH_PROPOSED"; '
        'printf "%s\\n" "$GH_TOKEN" "$@" > "$GH_CALLS" ;; esac',
    }
    for name, line in shims.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    (job,) = yaml.safe_load((project / ".github/workflows/update.yml").read_text())["jobs"].values()
    checkout, *steps = job["steps"]
    assert checkout["uses"].startswith("actions/checkout@")
    update, propose = steps
    assert "env" not in job | update  # code from the package index gets no token
    assert propose["env"] == {"GH_TOKEN": "${{ secrets.UPDATE_TOKEN || github.token }}"}  # may push workflows, too
    clone, calls = tmp_path / "clone", tmp_path / "calls"
    shutil.rmtree(clone, ignore_errors=True)
    calls.unlink(missing_ok=True)
    git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), str(clone))
    proposed = tmp_path / "proposed"
    if not proposed.exists():
        proposed.write_text("0\n")
    known = {"GH_CALLS": str(calls), "GH_PROPOSED": str(proposed), "GITHUB_REF_NAME": "main"}
    settings = os.environ | known | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    log = ""
    for step in steps:
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=clone,
            env=settings | dict.fromkeys(step.get("env", {}), "secret"),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        log += done.stdout
    (tmp_path / "log").write_text(log)
    return calls.read_text() if calls.exists() else ""


@pytest.mark.slow
def test_the_monthly_workflow_opens_a_pull_request(template: Path, project: Path, tmp_path: Path) -> None:
    replace(project / "configs/baseline.yaml", "max_epochs: 10", "max_epochs: 99")
    commit(project, "Train for much longer")
    origin = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(project), str(origin))
    assert run_workflow(project, tmp_path) == ""  # no update
    release(template)
    token, *arguments = run_workflow(project, tmp_path).splitlines()
    body = "Run by copier update. Conflicts to resolve in: configs/baseline.yaml"
    options = {"base": "main", "head": "template-v0.2.0", "title": "Update from the template", "body": body}
    assert token == "secret"
    assert arguments == ["pr", "create", *(word for name, value in options.items() for word in (f"--{name}", value))]
    assert git(origin, "log", "--format=%s", "main..template-v0.2.0") == "Update from the template"
    recipe = git(origin, "show", "template-v0.2.0:configs/baseline.yaml")
    assert re.search("<<<<<<<.*max_epochs: 99.*=======.*max_epochs: 12.*>>>>>>>", recipe, re.DOTALL)
    assert "New in the template." in git(origin, "show", "template-v0.2.0:NEWS.md")
    assert run_workflow(project, tmp_path) == ""  # already proposed: the branch is not overwritten


@pytest.mark.slow
def test_the_workflow_does_nothing_if_the_project_is_newer_than_the_last_tag(template: Path, tmp_path: Path) -> None:
    (template / "template/NEWS.md").write_text("Not released yet.\n")
    commit(template, "Begin the next version")
    project, answers = tmp_path / "leafnet", {"name": "leafnet", "author": "Ada"}
    run_copy(f"git+file://{template}", project, answers, defaults=True, quiet=True, vcs_ref="HEAD")
    git(project, "init", "--quiet", "--initial-branch", "main")
    commit(project, "Begin")
    git(tmp_path, "clone", "--quiet", "--bare", str(project), str(tmp_path / "origin.git"))
    assert run_workflow(project, tmp_path) == ""
    assert (tmp_path / "log").read_text() == "the template has nothing newer\n"
    release(template)
    assert "template-v0.2.0" in run_workflow(project, tmp_path)


@pytest.fixture
def from_a_wheel(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `kindling new` copy from files without a git repository, as in a wheel; return the current folder."""
    share = tmp_path / "site-packages/kindling/share"
    shutil.copytree(template, share, ignore=shutil.ignore_patterns(".git", "pyproject.toml"))
    monkeypatch.setattr("kindling.cli.new.SHARE", share)
    monkeypatch.setattr("kindling.cli.new._template_source", lambda: {"engine": ">=0.1"})
    for variable in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{variable}_NAME", "Ada")
        monkeypatch.setenv(f"{variable}_EMAIL", "ada@example.org")
    return tmp_path


@pytest.mark.slow
def test_a_project_from_a_wheel_is_updated_from_a_repository_that_was_named(
    kindling: Command, template: Path, from_a_wheel: Path
) -> None:
    assert kindling("new", "leafnet", "--template", template).code == 0
    project = from_a_wheel / "leafnet"
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert (answers["_src_path"], answers["_commit"]) == (f"git+file://{template}", "v0.1.0")
    check_update(project, template)


@pytest.mark.slow
def test_a_project_from_a_wheel_explains_how_to_update_it(
    kindling: Command, template: Path, from_a_wheel: Path
) -> None:
    assert kindling("new", "leafnet").code == 0
    project = from_a_wheel / "leafnet"
    assert not (project / ".github/workflows/update.yml").exists()  # it would always fail
    about = (project / "README.md").read_text()
    assert ".venv/bin/copier update" not in about
    assert re.search("set `_src_path`.*URL and `_commit` to the tag of the version.*`v0.1.0`", about, re.DOTALL)
    answers = project / ".copier-answers.yml"
    kept = [line for line in answers.read_text().splitlines() if not line.startswith("_")]
    answers.write_text("\n".join([*kept, f"_src_path: git+file://{template}", "_commit: v0.1.0", ""]))
    commit(project, "Name the repository of the template")
    check_update(project, template)


def check_update(project: Path, template: Path) -> None:
    """Check that a new version of the template is merged into a modified project, without the engine."""
    replace(project / "configs/baseline.yaml", "batch_size: auto", "batch_size: 16")
    commit(project, "Make it mine")
    release(template)
    update(project)
    recipe = yaml.safe_load((project / "configs/baseline.yaml").read_text())
    assert (recipe["data"]["init_args"]["batch_size"], recipe["trainer"]["max_epochs"]) == (16, 12)
    assert '"kindling-ml>=0.1"' in (project / "pyproject.toml").read_text()
    assert "<<<<<<<" not in "".join(files(project).values())
