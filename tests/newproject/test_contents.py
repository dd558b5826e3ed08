"""What the files of a new project say: nothing of what it does without."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache

import pytest

from kindling.newproject import command, repository
from kindling.newproject.parts import PARTS
from kindling.newproject.readme import readme
from kindling.newproject.rewrite import Project, rewrite

ALL: tuple[str, ...] = ()
MINIMAL = tuple(PARTS)
SHAPES = pytest.mark.parametrize("without", [ALL, *((part,) for part in PARTS), MINIMAL], ids=lambda parts: len(parts) > 1 and "minimal" or "".join(parts) or "all")


@cache
def write(without: tuple[str, ...], package: str = "leafnet", description: str = "Leaves.") -> Mapping[str, str]:
    """The texts of a project."""
    texts, _, gone = command.read_all(without)
    project = Project(package, description, "Ada", "", 2000, without, "0")
    page = readme((repository.ROOT / "README.md").read_text(encoding="utf-8"), project)
    return {**rewrite(texts, gone, project), "README.md": page}


def pages(project: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """All that is there to be read, of notebooks the text between the programs."""
    for path, text in project.items():
        if path.endswith(".md"):
            yield path, text
        elif path.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            yield path, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@SHAPES
def test_pages_and_notebooks_name_files_that_there_are(without: tuple[str, ...]) -> None:
    project = write(without)
    folders = {path.rpartition("/")[0] for path in project}
    own = {"src/leafnet/models/wide.py", "configs/synthetic_sgd.yaml"}  # what is shown how to write
    for page, text in pages(project):
        names = {f"notebooks/{name}" for name in re.findall(r"\b\d\d_\w+\.ipynb", text)}
        names |= {*re.findall(r"\b(?:configs|docs|notebooks|scripts|src|tests)/[\w/-]+\.[a-z]+\b", text)} - own
        names |= {link.removeprefix("../") for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)}
        lacking = names - {*project} - folders
        assert not lacking, page


@SHAPES
def test_no_mark_is_left(without: tuple[str, ...]) -> None:
    for path, text in write(without).items():
        assert not re.search(r"<!-- |^\{|\[\[\w", text if path.endswith(".md") else "", re.MULTILINE), path


def test_notebooks_of_a_whole_project_are_as_they_were() -> None:
    for path, text in write(ALL).items():
        if path.endswith(".ipynb"):
            ours = (repository.ROOT / path).read_text(encoding="utf-8")
            assert text == ours.replace("KINDLING", "LEAFNET").replace("Kindling", "Leafnet").replace("kindling", "leafnet")
