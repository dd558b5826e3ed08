"""Releases: the notes, the workflows, and the files about the project."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from release_notes import release_notes
from template import ROOT

WORKFLOWS = sorted([*ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("template/.github/workflows/*.yml")])
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d", name)]


def repository(folder: Path, changelog: str) -> Path:
    source = folder / "src/kindling/__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text('__version__ = "0.2.0"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    return folder


def test_the_notes_of_a_release_are_its_section_of_the_changelog(folder: Path) -> None:
    notes = "# Changelog\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- A.\n\n## [0.1.0] - 2026-11-01\n\n- B.\n"
    assert release_notes("v0.2.0", repository(folder / "made", notes)) == "### Added\n\n- A."


@pytest.mark.parametrize(
    ("tag", "changelog", "words"),
    [
        ("v0.3.0", "## [0.2.0] - 2026-12-01\n- A.\n", "the tag v0.3.0 is not v0.2.0"),
        ("v0.2.0", "## [Unreleased]\n- A.\n", "rename [Unreleased]"),
        ("v0.2.0", "## [0.2.0]\n- A.\n", "with a date"),
        ("v0.2.0", "## [0.2.0] - 2026-12-01\n\n## [0.1.0] - 2026-11-01\n- B.\n", "is empty"),
    ],
)
def test_a_release_that_is_not_ready_is_refused(folder: Path, tag: str, changelog: str, words: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(words)):
        release_notes(tag, repository(folder / "made", changelog))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_permissions_are_narrow(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.+)$", text, re.MULTILINE)
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)] == []
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert yaml.safe_load(text)["permissions"] in ({"contents": "read"}, {})


def test_an_action_has_the_same_version_everywhere() -> None:
    used = {use for path in WORKFLOWS for use in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))}
    names = [use.partition("@")[0] for use in used]
    assert len(names) == len(set(names)) > 5


def test_a_release_is_tested_on_all_systems_and_pythons_before_it_is_published() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert {system.partition("-")[0] for system in jobs["test"]["strategy"]["matrix"]["os"]} == {
        "ubuntu",
        "macos",
        "windows",
    }
    assert {"test"} <= {*jobs["publish"]["needs"]}
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == ["attest", "publish"]
    assert not re.search(r"password|api[_-]token", str(jobs), re.IGNORECASE)


def test_the_lowest_versions_are_tested_also_without_the_newer_torch_of_an_extra() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/weekly.yml").read_text(encoding="utf-8"))["jobs"]
    (install,) = (step["run"] for step in jobs["base"]["steps"] if "uv pip install" in step.get("run", ""))
    assert "--resolution lowest-direct" in install
    project = PROJECT["project"]
    extras = re.findall(r"\.\[([\w,]+)\]", install)[0].split(",")
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    assert [line for line in asked if re.match(r"(torch|torchvision)\b", line)] == ["torch>=2.6", "torchvision>=0.21"]
    assert not [line for line in asked if line.startswith("kindling-ml[")]  # might ask for more extras
    (check,) = (step["run"] for step in jobs["base"]["steps"] if "torch.__version__" in step.get("run", ""))
    assert "'2.6.', '0.21.'" in check
    (tests,) = (step["run"] for step in jobs["base"]["steps"] if "pytest -m" in step.get("run", ""))
    folders = re.findall(r"tests/(\w+)", tests)
    assert [name for name in folders if not (ROOT / "tests" / name).is_dir()] == []
    marks = {"parametrize", "skip", "skipif", "usefixtures", "xfail", "filterwarnings"}
    marks |= {re.split(r"\W", line)[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    if "pytest-xdist" in install:
        marks.add("xdist_group")
    sources = [path for name in folders for path in (ROOT / "tests" / name).rglob("*.py")]
    used = {mark for path in sources for mark in re.findall(r"pytest\.mark\.(\w+)", path.read_text(encoding="utf-8"))}
    assert used <= marks  # else --strict-markers ends the run
    row = re.findall(r"^\| `base` .*$", (ROOT / "docs/dependencies.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert re.findall(r"`(\w+)`", row.rpartition(" | ")[2]) == folders


def test_each_package_of_an_extra_has_its_row() -> None:
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`", page.partition("## Extras")[2].partition("\n\n## ")[0], re.MULTILINE)
    grouped = {"notebooks", "docs", "dev"}
    assert {*PROJECT["project"]["optional-dependencies"]} - grouped == {*rows} - grouped


def test_the_citation_has_the_fields_that_are_required() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
