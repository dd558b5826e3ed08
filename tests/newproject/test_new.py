"""`kindling new`: what it writes, and what it refuses."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

import pytest

from conftest import Command
from kindling import __version__
from kindling.cli import COMMANDS
from kindling.newproject import command, repository, tidy
from kindling.newproject.names import TAKEN, check_package, has_another
from kindling.newproject.parts import PARTS, TEMPLATE, goes
from kindling.newproject.rewrite import Project, rewrite

FETCH = tidy.fetch_ruff
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
    monkeypatch.setattr(tidy, "fetch_ruff", lambda folder: None)


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
    assert result.out.splitlines()[1:5] == ["next:", "  cd leafnet", "  make train", "  make test"]
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


@pytest.mark.parametrize("package", ["aaa", "zzz", "a_rather_long_name_of_it"])
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
    "l" * 25: f"2 to 24 of them: {'l' * 24} would be one",
    "x": "2 to 24 of them",
    "lambda": "keyword",
    "kindling": "the name of the template",
    "test": "Python has a module of that name",
    "queue": "Python has a module of that name",
    "print": "Python has a function of that name",
    "torch": "it needs a package of that name",
    "pillow": "it needs a package of that name",
    **dict.fromkeys(
        "google attr dateutil grpc zmq multipart functorch torchgen sklearn pil lightning_fabric torchrun".split(),
        "a package that it needs has a module or command of that name",
    ),
    "hatchling": "what builds and installs it",
    "editables": "what builds and installs it",
    "cache": "pytest has a fixture of that name",
    **dict.fromkeys(
        "git make docker bash rm sudo install history".split(), "its command would hide the tool of that name"
    ),
    "pip": "what builds and installs it",
    "runs": "a folder of the project has that name",
    "docs": "a folder of the project has that name",
    "rows": "a program in tests or scripts has that name",
    "model": "src/kindling/predictor.py uses that name for something else",  # the fields of ModelCard
    "trained": "tests/conftest.py uses that name for something else",
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


def bare(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a repository, with a Python that has nothing installed."""
    source = {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, "-S", "-m", "kindling", "new", *arguments]
    return subprocess.run(line, cwd=folder, env=os.environ | source | environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_python_without_anything_installed_refuses_the_same_names(folder: Path, name: str) -> None:
    done = bare(repository.ROOT, str(folder / "it"), "--package", name, PATH="")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert NAMES[name] in done.stderr


def test_the_modules_and_commands_of_the_tested_set_are_known() -> None:
    lines = (repository.ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    names: dict[str, list[Distribution]] = {}
    for distribution in distributions():
        names.setdefault(normal(distribution.name), []).append(distribution)
    same = {name for name in names if pinned.get(name) == names[name][0].version}
    needed = {module for module, owners in packages_distributions().items() if {*map(normal, owners)} & same}
    needed |= {point.name for name in same for point in names[name][0].entry_points if point.group == "console_scripts"}
    needed = {name.lower() for name in needed if re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name.lower())}
    known = {*TAKEN.read_text().partition("\n\n")[0].split("\n", 1)[1].split()}
    assert needed
    assert needed - {name.replace("-", "_") for name in pinned} <= known
    if len(same) > len(pinned) - 3:  # other versions may have fewer
        assert known <= needed


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_a_command_that_there_is_is_not_hidden(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Path("bin/leafnet").absolute()
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    assert f"its command would hide {tool}, choose another name" in refused(kindling, "leafnet")
    tool.write_text("#!/bin/python\nfrom leafnet.cli import program\n")
    assert kindling("new", "leafnet", *AUTHOR).code == 0  # the project was installed before


def test_ordinary_names_are_accepted() -> None:
    sources, _, _ = command.read_all(())
    for name in (*ORDINARY, "author", "build", "dist", "classifier", "thesis", "net"):
        check_package(name, sources)


ORDINARY = ["match", "sub", "network", "tables"]
HAS = {
    "import kindling\ndigits = kindling.load(0)": True,
    "import kindling\nkindling.load(digits=0).digits": False,
    "from kindling import load\ndigits = load(0)": False,
    "def test_it(kindling):\n    digits = kindling(0)": True,
    "def test_it(kindling):\n    kindling(0)\n\ndef one():\n    digits = 0": False,
    "def test_it(digits):\n    pass": True,  # a fixture, which may ask for the command
    "def it(digits):\n    pass": False,
    "def kindling():\n    pass\n\ndef digits():\n    pass": True,
    "class Card:\n    kindling: str\n    digits: int": True,
}


@pytest.mark.parametrize(("program", "has"), HAS.items())
def test_a_name_that_means_something_else_beside_the_packages(program: str, has: bool) -> None:
    assert has_another("digits", "tests/test_it.py", program) == has


BAD_AUTHORS = ["Ada <somewhere>", "A <b@c> D", "A <b@c", "A <a b@c>", "a@b.c", "A <b@c@d>", "A <b..c@d>", "A>"]


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
        *((["leafnet", "--author", author], f"<ada@example.org>', not '{author}'") for author in BAD_AUTHORS),
        (["leafnet", "--licence", "MIT"], "there is no option licence"),
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
    assert result.err == "the project is not committed: git is not installed\n"
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


def test_also_where_git_shows_no_new_files(clone: Path) -> None:
    repository.git(clone, "config", "status.showUntrackedFiles", "no")
    (clone / "src/kindling/thesis.txt").write_text("years of work")
    with pytest.raises(AssertionError, match="commit all changes with git first"):
        run(clone, "kindling", "new", ".")
    assert (clone / "src/kindling/thesis.txt").exists()


def test_a_template_without_history_is_not_replaced(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    done = bare(clone, ".")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no repository of git that keeps what it was: type git init && git add --all && git" in done.stderr
    assert (clone / "src/kindling/cli.py").exists()


def test_what_is_new_in_the_template_goes_along(clone: Path, folder: Path) -> None:
    (clone / "src/kindling/models/wide.py").touch()
    (clone / "key_file.json").write_text("a secret, which git ignores")
    done = bare(clone, str(folder / "it"), *AUTHOR)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == (
        "with files that the template's git does not track: src/kindling/models/wide.py"
    )
    assert (folder / "it/src/it/models/wide.py").exists()
    assert not (folder / "it/key_file.json").exists()


def test_what_git_says_when_it_does_not_commit(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("begin").mkdir()
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(Path("begin").absolute()))
    Path("begin/index.lock").touch()
    result = kindling("new", "staged", "--package", "leafnet", *AUTHOR)
    assert (result.code, result.err.count("\n")) == (0, 1)
    assert re.match("the project is not committed: fatal: Unable to create .*index.lock': File exists", result.err)
    Path("begin/index.lock").unlink()
    Path("begin/config").write_text("[commit]\ngpgsign = true\n[gpg]\nprogram = false\n")
    result = kindling("new", "signed", "--package", "leafnet", *AUTHOR)
    assert result.err == "the project is not committed: error: gpg failed to sign the data\n"


def test_git_tracks_all_that_was_written(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ignored").write_text("docs/\n*.ipynb\n")
    Path("config").write_text(f"[core]\nexcludesFile = {Path('ignored').absolute().as_posix()}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(Path("config").absolute()))
    for package in ("build", "dist"):
        assert kindling("new", package, *AUTHOR).code == 0
        project = Path(package).absolute()
        tracked = repository.run_git(project, "ls-files", "-z").split("\0")[:-1]
        assert tracked == sorted(path.as_posix() for path, _ in texts(project))
        assert repository.git(project, "check-ignore", f"src/{package}/new.py") is None


def test_git_works_in_the_project_whatever_the_environment_says(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    repository.run_git(folder, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(folder / "other/.git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(folder / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(folder / "other/.git/index"))
    assert kindling("new", "leafnet", *AUTHOR).code == 0
    assert repository.git(folder / "leafnet", "log", "--format=%s") == "Leafnet\n"
    assert repository.git(folder / "other", "log") is None


def test_a_project_inside_another_repository_gets_none_of_its_own(kindling: Command, folder: Path) -> None:
    outer = folder / "outer"
    repository.run_git(folder, "init", "--quiet", "outer")
    result = kindling("new", "outer/leafnet", *AUTHOR)
    assert f"it is in the repository {outer.resolve().as_posix()}, and gets none of its own" in result.out
    assert not (outer / "leafnet/.git").exists()
    (outer / ".gitignore").write_text("petalnet/\n")
    assert kindling("new", "outer/petalnet", *AUTHOR).code == 0
    assert (outer / "petalnet/.git").exists()


@pytest.mark.parametrize(
    ("name", "address", "author"),
    [
        ('Ada "Q" Lovelace', "ada@example.org", ('Ada "Q" Lovelace', "ada@example.org")),
        ("Ada", "ada@laptop.(none)", ("Ada", "")),
        ("<Ada>", "1+ada@example.org", ("The Leafnet authors", "1+ada@example.org")),
        ("", "", ("The Leafnet authors", "")),
        (None, None, ("The Leafnet authors", "")),
    ],
)
def test_the_author_that_git_knows(
    monkeypatch: pytest.MonkeyPatch, name: str | None, address: str | None, author: tuple[str, str]
) -> None:
    known = {"user.name": name, "user.email": address}
    monkeypatch.setattr(command, "git", lambda _, __, what: known[what])
    assert command.author_of(None, "leafnet") == author


def test_the_author_that_is_typed() -> None:
    assert command.author_of(' Ada "Q" Lovelace <ada@example.org>', "it") == ('Ada "Q" Lovelace', "ada@example.org")
    assert command.author_of("Ada", "it") == ("Ada", "")


@pytest.mark.parametrize("package", ["author", "template", "description"])
def test_words_of_a_person_stay_as_they_are(kindling: Command, package: str) -> None:
    told = r"TEMPLATE matching of DESCRIPTION by AUTHOR, \1"
    assert kindling("new", package, "--description", told, "--author", "A DESCRIPTION").code == 0
    lines = Path(package, "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == [f"# {package.capitalize()}", "", told]
    assert lines[-1] == f"MIT licence, by A DESCRIPTION. Made from Kindling {__version__}."
    assert any(f"{package} fit --config" in line for line in lines)


def test_ruff_is_fetched_for_the_moment(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "fetch_ruff", FETCH)
    Path("fake/pip").mkdir(parents=True)
    found = f'#!/bin/sh\nexec {sys.executable} -m ruff "$@"\n'
    Path("fake/pip/__main__.py").write_text(
        "import os, pathlib, sys\n"
        "assert sys.argv[-1].startswith('ruff==')\n"
        "ruff = pathlib.Path(sys.argv[sys.argv.index('--target') + 1], 'bin', 'ruff')\n"
        f"ruff.parent.mkdir()\nruff.write_text({found!r})\nos.chmod(ruff, 0o755)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path("fake").absolute()))
    result = kindling("new", "zebra", *AUTHOR)
    assert (result.code, "ruff" in result.out) == (0, False)
    monkeypatch.delenv("PYTHONPATH")
    run(Path("zebra").absolute(), "ruff", "check", "--no-cache")
    run(Path("zebra").absolute(), "ruff", "format", "--check", "--no-cache")


def test_without_ruff_it_says_how_to_amend_the_commit(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    result = kindling("new", "leafnet", *AUTHOR)
    assert result.out.splitlines()[-4:] == [
        "  make train",
        "  make test",
        "there is no ruff here, and CI checks style. Before you push:",
        "  .venv/bin/ruff check --fix && .venv/bin/ruff format && git commit --all --amend --no-edit",
    ]


def test_the_user_in_the_container_is_not_called_by_the_package(kindling: Command) -> None:
    assert kindling("new", "games", *AUTHOR).code == 0
    assert "\nUSER app\n" in Path("games/Dockerfile").read_text()


def test_a_package_without_its_repository_says_so(folder: Path) -> None:
    shutil.copytree(repository.ROOT / "src/kindling", folder / "elsewhere/src/kindling")
    with pytest.raises(AssertionError, match="is not in one: clone it") as raised:
        run(folder / "elsewhere", "kindling", "new", "leafnet")
    assert str(raised.value).count("kindling: error: ") == 1


def test_a_python_without_anything_installed_will_do(folder: Path) -> None:
    done = bare(repository.ROOT, str(folder / "leafnet"), *AUTHOR)
    assert done.returncode == 0, done.stderr


FEW = ["fit", "--config", "configs/quickstart.yaml", "--trainer.fast_dev_run", "1"]


def test_the_smallest_project_trains(kindling: Command) -> None:
    assert kindling("new", "leafnet", "--minimal", *AUTHOR).code == 0
    assert "test/accuracy" in run(Path("leafnet").absolute(), "leafnet", *FEW)


@SLOW
@pytest.mark.parametrize("shape", [[], ["--minimal"], *(["--without", part] for part in PARTS)], ids=" ".join)
def test_a_project_passes_its_own_checks(folder: Path, shape: list[str]) -> None:
    check_project(folder / "leafnet", *shape)


@SLOW
@pytest.mark.parametrize("package", ORDINARY)
def test_a_project_of_another_name_passes_its_own_checks(folder: Path, package: str) -> None:
    check_project(folder / package)


def check_project(project: Path, *shape: str) -> None:
    run(repository.ROOT, "kindling", "new", str(project), *shape, *AUTHOR)
    assert "test/accuracy" in run(project, project.name, *FEW)
    run(project, "ruff", "check", "--no-cache")
    run(project, "ruff", "format", "--check", "--no-cache")
    run(project, "mypy", "--no-incremental")
    run(project, "pytest", "--collect-only", "--quiet")
    run(project, "pytest", "--quiet", "tests/test_training.py", "tests/test_predictor.py", "tests/test_cli.py")
