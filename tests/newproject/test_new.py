"""`kindling new`: what it writes, and what it refuses."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

from conftest import Command
from kindling import __version__
from kindling.cli import COMMANDS
from kindling.newproject import command, repository, tidy
from kindling.newproject.parts import PARTS, TEMPLATE, goes
from kindling.newproject.rewrite import Project, rewrite

SLOW = pytest.mark.skipif("KINDLING_SLOW" not in os.environ, reason="takes minutes: KINDLING_SLOW=1")
AUTHOR = ["--author", "Ada Lovelace <ada@example.org>"]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which git knows no one."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.delenv("EMAIL", raising=False)
    monkeypatch.setattr(command, "git", without_identity)
    monkeypatch.setattr(tidy, "find_ruff", lambda: None)  # where a test needs it, it runs a new Python


def without_identity(folder: Path, *arguments: str, identity: tuple[str, str] | None = None) -> str | None:
    return None if arguments[0] == "config" else repository.git(folder, *arguments, identity=identity)


def texts(project: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(project.rglob("*")):
        if path.is_file() and ".git" not in path.relative_to(project).parts:
            yield path.relative_to(project), path.read_text(encoding="utf-8", errors="ignore")


def run(project: Path, *arguments: str, timeout: float = 900) -> str:
    """Runs a program in a project, with the project's package and none of ours."""
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def missing(project: Mapping[str, str], package: str) -> set[str]:
    """What programs import of the package and of the other tests that is not there."""
    programs = "\n".join(text for path, text in project.items() if path.endswith(".py"))
    imported = re.findall(rf"^ *from ({package}[\w.]*|rows|browser|run_notebooks) import", programs, re.MULTILINE)
    there = {path.removesuffix(".py").removesuffix("/__init__") for path in project}
    places = {name: name.replace(".", "/") for name in imported}
    return {
        name for name, place in places.items() if not {f"{of}/{place}" for of in ("src", "tests", "scripts")} & there
    }


def test_all_of_it_is_renamed_and_of_its_author(kindling: Command) -> None:
    result = kindling("new", "leafnet", "--description", 'Leaves, "told" apart', *AUTHOR)
    assert result.code == 0, result.err
    assert result.out.splitlines()[1:] == ["next:", "  cd leafnet", "  make train", "  make test"]
    project = Path("leafnet")
    said = [line for _, text in texts(project) for line in text.splitlines() if "kindling" in line.lower()]
    assert said == [f"MIT licence, by Ada Lovelace. Made from Kindling {__version__}."]
    assert not [path for path, _ in texts(project) if "kindling" in str(path).lower() or "benchmark" in str(path)]
    build = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert build["project"]["name"] == "leafnet"
    assert build["project"]["description"] == 'Leaves, "told" apart'
    assert build["project"]["authors"] == [{"name": "Ada Lovelace", "email": "ada@example.org"}]
    assert build["project"]["scripts"] == {"leafnet": "leafnet.cli:program"}
    assert re.search(r"^Copyright \(c\) 20\d\d Ada Lovelace$", (project / "LICENSE").read_text(), re.MULTILINE)
    assert "LEAFNET_DEBUG" in (project / "src/leafnet/cli.py").read_text()
    log = subprocess.run(["git", "-C", project, "log", "--format=%an %ae %s"], capture_output=True, text=True)
    assert log.stdout == "Ada Lovelace ada@example.org Leafnet\n"
    status = subprocess.run(["git", "-C", project, "status", "--porcelain"], capture_output=True, text=True)
    assert status.stdout == ""
    assert missing({str(path): text for path, text in texts(project)}, "leafnet") == set()


def test_its_command_knows_no_other_command(kindling: Command) -> None:
    assert kindling("new", "leafnet", *AUTHOR).code == 0
    shown = run(Path("leafnet").absolute(), "leafnet", "--help")
    assert re.findall(r"^  ([a-z]+) {2,}", shown, re.MULTILINE) == [name for name in COMMANDS if name != "new"]


def test_its_readme_names_commands_recipes_and_files_that_there_are(kindling: Command) -> None:
    for shape in ([], ["--minimal"]):
        assert kindling("new", "leafnet", *shape, *AUTHOR).code == 0
        project = Path("leafnet")
        readme = (project / "README.md").read_text(encoding="utf-8")
        commands = set(re.findall(r"^(?:\| `|`)?leafnet (\w+)", readme, re.MULTILINE))
        known = run(project.absolute(), "leafnet", "--help")
        assert commands == set(re.findall(r"^  ([a-z]+) {2,}", known, re.MULTILINE))
        files = re.findall(r"configs/[\w/]+\.yaml|^(?:src/\S+|\w+/)(?=  )", readme, re.MULTILINE)
        assert len(files) > 8
        assert not [file for file in files if not (project / file).exists()]
        shutil.rmtree(project)


def test_minimal_has_no_part_that_can_go(kindling: Command) -> None:
    assert kindling("new", "leafnet", "--minimal", *AUTHOR).code == 0
    project = Path("leafnet")
    folders = {path.name for path in (project / "src/leafnet").iterdir() if path.is_dir()}
    assert folders == {"callbacks", "data", "models"}
    assert not (project / "notebooks").exists()
    assert not (project / "Dockerfile").exists()
    build = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert not {"export", "serve", "torchserve", "notebooks", "parquet"} & {*build["project"]["optional-dependencies"]}
    names = ("pandas", "selenium", "leafnet", "pyarrow")
    developing = build["project"]["optional-dependencies"]["dev"]
    assert not [line for line in [*build["project"]["dependencies"], *developing] if line.startswith(names)]
    assert (project / "src/leafnet/models/__init__.py").read_text().count("Classifier") == 6
    assert run(project.absolute(), "leafnet", "--version") == "leafnet 0.1.0\n"


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_go_alone(part: str) -> None:
    texts, _, gone = command.read_all([part])
    project = rewrite(texts, gone, Project("leafnet", "Leaves.", "Ada", "", 2000, (part,), "0"))
    assert any(goes(path, [part]) and not goes(path, []) for path in gone)
    assert missing(project, "leafnet") == set()
    assert tomllib.loads(project["pyproject.toml"])["project"]["name"] == "leafnet"


def test_no_pattern_is_of_a_file_that_is_gone() -> None:
    ours = repository.files()
    patterns = [*TEMPLATE, *(pattern for part in PARTS.values() for pattern in part.files)]
    programs = [pattern for pattern in patterns if pattern.startswith(("src/", "scripts/", "tests/", "configs/"))]
    assert not [pattern for pattern in programs if not any(fnmatch(file, pattern) for file in ours)]


@pytest.mark.parametrize("package", ["aaa", "zzz", "a_rather_long_name_for_it"])
def test_other_names_sort_and_wrap_as_ruff_wants(folder: Path, package: str) -> None:
    project = folder / "it"
    run(repository.ROOT, "kindling", "new", str(project), "--package", package, *AUTHOR)
    run(project, "ruff", "check", "--no-cache")
    run(project, "ruff", "format", "--check", "--no-cache")


NAMES = {
    "leaf-net": "leaf_net would be one",
    "Leafnet": "leafnet would be one",
    "3leaves": "leaves would be one",
    "blätter": "a package is called by small letters",
    "l" * 41: "small letters",
    "lambda": "keyword",
    "kindling": "the name of the template",
    "test": "Python has a module of that name",
    "queue": "Python has a module of that name",
    "torch": "installed or needed",
    "sklearn": "installed or needed",
    "data": "calls something else data",
    "trainer": "calls something else trainer",
}


def refused(kindling: Command, *options: str) -> str:
    before = set(Path().rglob("*"))
    result = kindling("new", *options)
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")
    assert set(Path().rglob("*")) == before, "something was written"
    return result.err


@pytest.mark.parametrize(("name", "words"), NAMES.items(), ids=[*NAMES])
def test_odd_names_are_refused(kindling: Command, name: str, words: str) -> None:
    message = refused(kindling, "it", "--package", name)
    assert words in message
    assert f"--package {name}" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["full"], "full exists already and is not an empty folder"),
        (["file"], "file exists already"),
        (["nowhere/leafnet"], "there is no folder"),
        ([str(repository.ROOT / "leafnet")], "is inside the template"),
        ([], "missing: FOLDER"),
        (["leafnet", "--without", "deploi"], "--without deploi: there is no such part: did you mean deploy?"),
        (["leafnet", "--without", "deploy,xyz"], "--without xyz: there is no such part: there are dashboard, deploy"),
        (["leafnet", "--description", "two\nlines"], "--description must be one line"),
        (["leafnet", "--description", " "], "--description must be one line"),
        (["leafnet", "--author", "<ada@example.org>"], "--author must be a name, or"),
        (["leafnet", "--author", "Ada <somewhere>"], "--author must be a name, or"),
        (["leafnet", "--licence", "MIT"], "unrecognized arguments: --licence"),
    ],
)
def test_what_it_cannot_do_is_said(kindling: Command, options: list[str], words: str) -> None:
    Path("full").mkdir()
    Path("full", "thesis.txt").write_text("years of work")
    Path("file").touch()
    assert words in refused(kindling, *options)


def test_a_dash_in_the_folder_is_none_in_the_package(kindling: Command) -> None:
    Path("leaf-net").mkdir()  # an empty one will do
    assert kindling("new", "leaf-net", *AUTHOR).code == 0
    assert "class LeafNetCLI" in Path("leaf-net/src/leaf_net/training.py").read_text()
    assert "LEAF_NET_DEBUG" in Path("leaf-net/src/leaf_net/cli.py").read_text()


def test_what_fails_leaves_nothing(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        Path("leafnet").mkdir()
        Path("leafnet", "half").touch()
        raise OSError("the disk is full")

    monkeypatch.setattr(shutil, "copytree", fail)
    result = kindling("new", "leafnet", *AUTHOR)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the disk is full" in result.err
    assert not Path("leafnet").exists()


def test_without_git_all_is_taken_that_is_not_ignored(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kindling("new", "tracked", "--package", "leafnet", *AUTHOR).code == 0
    monkeypatch.setenv("PATH", "")
    result = kindling("new", "walked", "--package", "leafnet")
    assert result.code == 0, result.err
    assert "git is not installed or failed: the project has no history yet" in result.out
    assert not Path("walked/.git").exists()
    assert {path for path, _ in texts(Path("walked"))} >= {path for path, _ in texts(Path("tracked"))}
    assert not [
        path for path, _ in texts(Path("walked")) if path.parts[0] in (".venv", "runs") or path.suffix == ".pyc"
    ]
    assert "The Leafnet authors" in Path("walked/LICENSE").read_text()


@pytest.fixture
def clone(folder: Path) -> Path:
    """The repository as GitHub's "Use this template" gives it: all files in one commit."""
    clone = folder / "leaf-net"
    for name in repository.files():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository.ROOT / name, clone / name)
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Initial commit"]):
        assert repository.git(clone, *arguments, identity=("Ada", "ada@example.org")) is not None
    return clone


def test_a_repository_made_from_the_template_becomes_ones_own(clone: Path) -> None:
    (clone / "src/kindling/__pycache__").mkdir()
    (clone / "notebooks/key_file.json").write_text("a secret, which git ignores")
    run(clone, "kindling", "new", ".", "--without", "deploy", *AUTHOR)
    assert not (clone / "src/kindling").exists()
    assert (clone / "notebooks/key_file.json").exists()
    assert missing({str(path): text for path, text in texts(clone)}, "leaf_net") == set()
    assert [line for _, text in texts(clone) for line in text.splitlines() if "kindling" in line.lower()] == [
        f"MIT licence, by Ada Lovelace. Made from Kindling {__version__}."
    ]
    assert repository.git(clone, "status", "--porcelain") == ""
    assert repository.git(clone, "log", "--format=%s") == "LeafNet\nInitial commit\n"


def test_changes_that_are_not_committed_are_not_lost(clone: Path) -> None:
    (clone / "thesis.txt").write_text("years of work")
    with pytest.raises(AssertionError, match="commit all changes with git first"):
        run(clone, "kindling", "new", ".")
    assert (clone / "src/kindling/cli.py").exists()


def test_a_package_without_its_repository_says_so(folder: Path) -> None:
    shutil.copytree(repository.ROOT / "src/kindling", folder / "elsewhere/src/kindling")
    with pytest.raises(AssertionError, match="is not in one: clone it") as raised:
        run(folder / "elsewhere", "kindling", "new", "leafnet")
    assert str(raised.value).count("kindling: error: ") == 1


def test_a_python_without_anything_installed_will_do(folder: Path) -> None:
    command = [sys.executable, "-S", "-m", "kindling", "new", str(folder / "leafnet"), *AUTHOR]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(repository.ROOT / "src")}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


FEW = ["fit", "--config", "configs/quickstart.yaml", "--trainer.fast_dev_run", "1"]


def test_the_smallest_project_trains(kindling: Command) -> None:
    assert kindling("new", "leafnet", "--minimal", *AUTHOR).code == 0
    assert "test/accuracy" in run(Path("leafnet").absolute(), "leafnet", *FEW)


@SLOW
@pytest.mark.parametrize("shape", [[], ["--minimal"], *(["--without", part] for part in PARTS)], ids=" ".join)
def test_a_project_passes_its_own_checks(folder: Path, shape: list[str]) -> None:
    project = folder / "leafnet"
    run(repository.ROOT, "kindling", "new", str(project), *shape, *AUTHOR)
    assert "test/accuracy" in run(project, "leafnet", *FEW)
    run(project, "ruff", "check", "--no-cache")
    run(project, "ruff", "format", "--check", "--no-cache")
    run(project, "mypy", "--no-incremental")
    run(project, "pytest", "--collect-only", "--quiet")
    run(project, "pytest", "--quiet", "tests/test_training.py", "tests/test_predictor.py", "tests/test_cli.py")
