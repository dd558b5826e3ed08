"""What the files of a new project say: nothing of what it does without."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from kindling.newproject import command, repository
from kindling.newproject.parts import PARTS
from kindling.newproject.readme import readme
from kindling.newproject.rewrite import Project, rewrite

ALL: tuple[str, ...] = ()
MINIMAL = tuple(PARTS)
SHAPES = pytest.mark.parametrize(
    "without", [ALL, *((part,) for part in PARTS), MINIMAL], ids=["all", *PARTS, "minimal"]
)


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
        names |= {*re.findall(r"(?<![\w/])(?:configs|docs|notebooks|scripts|src|tests)/[\w/-]+\.\w+\b", text)} - own
        names |= {link.removeprefix("../") for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)}
        lacking = names - {*project} - folders
        assert not lacking, page


@SHAPES
def test_pages_have_no_marks(without: tuple[str, ...]) -> None:
    project = write(without)
    for page in ("README.md", "docs/your-own.md"):
        assert not re.search(r"<!--|-->|^\[\[|\n{4}", project[page], re.MULTILINE), page


@SHAPES
@pytest.mark.parametrize("package", ["it", "a_rather_long_name_for_it"[:24]])
def test_pages_are_as_wide_as_ours(without: tuple[str, ...], package: str) -> None:
    project = write(without, package)
    for page in ("README.md", "docs/your-own.md"):
        text = re.sub(r"^```.*?^```$", "", project[page], flags=re.MULTILINE | re.DOTALL)
        paragraphs = [part.splitlines() for part in text.split("\n\n") if not part.startswith(("|", "#", "- "))]
        assert not [line for lines in paragraphs for line in lines if len(line) > 120]
        # Nor is a line broken early: the next word would not fit.
        early = [(a, b) for lines in paragraphs for a, b in pairwise(lines) if len(a) + 1 + len(b.split()[0]) <= 120]
        assert not early


# What a project's README says of each part, and nothing of it without the part.
SAID = {
    "dashboard": ["**HParams**", "src/leafnet/dashboard/"],
    "deploy": [
        *("`POST /predict`", "`GET /info`", "LEAFNET_API_KEY", "reverse proxy", "--workers"),
        *("--format torchscript", "docker build", "leafnet serve"),
    ],
    "ensemble": ["EnsembleClassifier"],
    "images": ["ImageFolderDataModule", "--data.predict new_photos"],
    "notebooks": [".[notebooks]", "notebooks/01_tensors_and_autograd.ipynb"],
    "report": ["report.html"],
    "runlist": ["leafnet runs compare"],
    "tables": ["table_mlp.yaml", "--data.predict new_customers.csv", "data frames"],
    "transfer": ["TransferClassifier", "unfreeze_epoch"],
    "trials": ["--overfit", "--find_lr", "overfit_batch"],
}


@SHAPES
def test_the_readme_says_what_there_is_and_no_more(without: tuple[str, ...]) -> None:
    readme = write(without)["README.md"]
    for word in (
        "make docs",
        "make coverage",
        "--run_name",
        ".devcontainer/",
        "a recipe, or numbers instead of classes",
    ):
        assert word in readme
    assert SAID.keys() == PARTS.keys()
    for part, words in SAID.items():
        assert [word for word in words if (word in readme) == (part in without)] == []


def test_the_readme_lists_the_notebooks_that_there_are() -> None:
    for without in (ALL, ("trials",), ("deploy", "images")):
        project = write(without)
        listed = re.findall(r"^\| \[\d\d\]\((\S+)\)", project["README.md"], re.MULTILINE)
        assert listed == [path for path in project if path.endswith(".ipynb")]


def test_guides_tell_of_parts_that_there_are() -> None:
    words = ("report", "confusion", "trial", "server", "finder", "list of runs")
    whole, least = (write(without)["docs/your-own.md"] for without in (ALL, MINIMAL))
    assert [word for word in words if word not in whole] == [word for word in words if word in least] == []


def imported(program: str, package: str) -> Iterator[str]:
    """The modules that a program names: in an import, or in a string that is imported when it is needed."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{name.name}" for name in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (node.value, f"{package}.{node.value}")


@SHAPES
def test_each_module_is_used(without: tuple[str, ...]) -> None:
    modules = {
        ".".join(Path(path).relative_to("src").with_suffix("").parts): text
        for path, text in write(without).items()
        if path.startswith("src/") and path.endswith(".py")
    }
    used = {name for module, text in modules.items() for name in imported(text, "leafnet") if name != module}
    idle = {module for module in {*modules} - used if not module.endswith(".__init__")}
    assert idle - {"leafnet.__main__", "leafnet.deploy.handler"} == set()  # the second is what TorchServe runs


@SHAPES
def test_settings_are_of_what_there_is(without: tuple[str, ...]) -> None:
    project = write(without)
    assert ("apt-get" in project[".ci/run"]) == (not {"dashboard", "deploy"} <= {*without})
    assert project[".ci/run"].splitlines()[-3:] == ["make lint", "make docs", "make test"]
    build = tomllib.loads(project["pyproject.toml"])
    assert ("notebooks/*" in build["tool"]["ruff"]["lint"]["per-file-ignores"]) == ("notebooks" not in without)
    assert ("untyped_calls_exclude" in build["tool"]["mypy"]) == ("notebooks" not in without)


# What is imported under another name than it is installed under, or comes with something else.
NAMES = {"PIL": "pillow", "sklearn": "scikit_learn", "yaml": "pyyaml", "model_archiver": "torch_model_archiver"}
NAMES |= {"IPython": "ipykernel", "nbformat": "nbclient", "scipy": "scikit_learn"}


@SHAPES
def test_all_that_is_imported_is_installed(without: tuple[str, ...]) -> None:
    """By the package with all of its parts, by tests with `dev`, by notebooks with `notebooks`."""
    project = write(without)
    build = tomllib.loads(project["pyproject.toml"])["project"]
    needs = {"": build["dependencies"]} | build["optional-dependencies"]

    def installed(extra: str) -> set[str]:
        own = {
            name
            for line in needs[extra]
            for names in re.findall(r"^leafnet\[(.*)\]", line)
            for name in names.split(",")
        }
        names = {re.split(r"[\[><=;]", line)[0].replace("-", "_").lower() for line in needs[extra]}
        return names.union(*map(installed, own))

    own = {Path(path).stem for path in project if path.endswith(".py")} | {"leafnet"}
    for path, text in project.items():
        if path.endswith((".py", ".ipynb")):
            extra = "notebooks" if path.startswith("notebooks") else "dev"
            imported = {
                *re.findall(r"^[ \"]*(?:import|from) (\w+)(?:\.\w+)*(?: import | as |\n|$|\\n)", text, re.MULTILINE)
            }
            wanted = {NAMES.get(name, name) for name in imported - own - {*sys.stdlib_module_names}}
            assert wanted <= installed("") | installed(extra), path
    assert "leafnet[]" not in project["pyproject.toml"]
    assert ("pandas" in installed("")) == ("tables" not in without)
    assert project["pyproject.toml"].count('"pyarrow') == ("tables" not in without)


@pytest.mark.parametrize("page", ["README.md", "docs/your-own.md"])
def test_readers_do_not_see_the_marks(page: str) -> None:
    """They are comments to Markdown, in a row of a table too, and none begins a line that goes on."""
    text = (repository.ROOT / page).read_text(encoding="utf-8")
    assert text.count("<!-- -->") > 3
    shown = MarkdownIt().enable("table").render(text)
    assert "&lt;!--" not in shown
    assert shown.count("<table>") == len(re.findall(r"^\|[-|]+\|$", text, re.MULTILINE))
    assert not re.search(r"^<!-- .*-->.", text, re.MULTILINE)


def test_notebooks_of_a_whole_project_are_as_they_were() -> None:
    for path, text in write(ALL).items():
        if path.endswith(".ipynb"):
            ours = (repository.ROOT / path).read_text(encoding="utf-8")
            assert text == ours.replace("KINDLING", "LEAFNET").replace("Kindling", "Leafnet").replace(
                "kindling", "leafnet"
            )


@pytest.mark.parametrize(
    "description", ["Leaves.", '"Leaves", "told" apart: "oak"', r"\d+ leaves \ ", 'Kindling"""s leaves', "leaf " * 80]
)
def test_the_package_says_what_it_is(description: str) -> None:
    said = ast.get_docstring(ast.parse(write(ALL, description=description.strip())["src/leafnet/__init__.py"]))
    assert said is not None
    name, text = said.split("\n\n")
    assert name == "Leafnet."
    assert text.replace("\n", " ") == description.strip().replace('"""', "'''")
    assert max(map(len, text.splitlines())) <= 120
