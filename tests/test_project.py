"""The files around the package are valid, and the files and commands that they name exist."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import CONFIGS
from kindling import __version__

ROOT = CONFIGS.parent
PAGES = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.name != "CHANGELOG.md"]
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_valid_for_github(form: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert content.keys() == {"name", "description", "labels", "body"}
    names = [field["id"] for field in content["body"]]
    assert len(names) == len(set(names)) > 0
    for field in content["body"]:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
        assert isinstance(field["validations"]["required"], bool)


def test_dependencies_and_actions_are_kept_up_to_date() -> None:
    config = yaml.safe_load(read(".github/dependabot.yml"))
    assert config["version"] == 2
    assert {update["package-ecosystem"] for update in config["updates"]} == {"pip", "github-actions"}
    assert all(update["directory"] == "/" and update["schedule"]["interval"] for update in config["updates"])


def test_the_tested_set_has_every_dependency() -> None:
    """pip would install the newest version of a dependency without a constraint."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {re.split(r"[\[><=; ]", line)[0].lower().replace("_", "-") for line in wanted}
    assert names - {PROJECT["project"]["name"]} <= set(CONSTRAINTS)


def test_pre_commit_formats_as_the_tested_set_does() -> None:
    (hooks,) = (repo for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] if "ruff" in repo["repo"])
    assert hooks["rev"] == f"v{CONSTRAINTS['ruff']}"


def test_the_version_is_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert __version__ in read(PROJECT["tool"]["hatch"]["version"]["path"])
    for path in (ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "Dockerfile", *PAGES, *FORMS):
        assert not re.search(rf"\b{re.escape(__version__)}\b", path.read_text(encoding="utf-8")), path


def test_the_docker_image_copies_existing_files() -> None:
    dockerfile, ignored = read("Dockerfile"), read(".dockerignore").splitlines()
    copies = [line for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) if "--from" not in line]
    copied = [name for line in copies for name in line.split()[:-1]]
    assert "pyproject.toml" in copied
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == [f"python:{oldest}-slim"] * 2 + ["server"]
    extras = re.findall(r"'\.\[(.+)\]'", dockerfile)[0].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    for recipe in re.findall(r"--config (\S+)", dockerfile):
        assert (ROOT / recipe).exists()


def test_the_development_container_creates_the_environment() -> None:
    container = json.loads(read(".devcontainer/devcontainer.json"))
    target = container["postCreateCommand"].removeprefix("make ")
    assert f"\n{target}:" in read("Makefile")
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith("/.venv/bin/python")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_have_existing_targets(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        if file.startswith(("reference/", "tutorials/")):  # generated: `make docs` checks links to them
            continue
        target = (page.parent / file) if file else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)
    for path in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        assert set(re.findall(r"(?:`|^)make ([\w-]+)", read(path), re.MULTILINE)) <= set(targets)


def test_files_in_the_table_of_contributing_exist() -> None:
    table = read("CONTRIBUTING.md").partition("| question | answer |")[2].partition("\n## ")[0]
    paths = re.findall(r"`([a-z]+/[\w/]+(?:\.py)?)", table)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / "src/kindling" / path).exists()] == []
