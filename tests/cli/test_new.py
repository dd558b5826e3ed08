"""`kindling new`: options, defaults and errors."""

import json
import keyword
import re
import sys
import tomllib
import unicodedata
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from copier import run_copy

from conftest import Command
from template import ROOT, files, git

NAMES = {  # name: error and suggested name
    "class": ("is a keyword of Python", "class-net"),
    "Import": ("is a keyword of Python", "import-net"),
    "json": ("is a module of Python", "json-net"),
    "concurrent": ("is a module of Python", "concurrent-net"),
    "torch": ("belongs to another package or command", "torch-net"),
    "kindling": ("belongs to another package or command", "kindling-net"),
    "Rich": ("belongs to another package or command", "rich-net"),
    "scikit-learn": ("belongs to another package or command", "scikit-learn-net"),
    "python3": ("belongs to another package or command", "python3-net"),
    "2fast": ("must begin with a letter", "fast2"),
    "3d-shapes": ("must begin with a letter", "d-shapes3"),
    "123": ("must begin with a letter", "my-net"),
    "Über": ("must begin with a letter", "uber"),
    "U\u0308ber Blätter": ("must begin with a letter", "uber-blatter"),
    "Straße": ("must begin with a letter", "strasse"),
    "jsön": ("must begin with a letter", "json-net"),
    "叶子": ("must begin with a letter", "my-net"),
    "leaf.net": ("must begin with a letter", "leaf-net"),
    "leaf-": ("must begin with a letter", "leaf"),
    " leaf": ("must begin with a letter", "leaf"),
    "leaf\nnet": ("must begin with a letter", "leaf-net"),
    "x": ("have 2 to 30", "x-net"),
    "l" * 31: ("have 2 to 30", "l" * 26),
    "long name " * 30: ("have 2 to 30", "long-name-long-name-long-n"),
}


def requirement(project: str | Path) -> str:
    lines = Path(project, "pyproject.toml").read_text().splitlines()
    (line,) = (line for line in lines if "kindling-ml" in line)
    return line.strip(' ",')


@pytest.mark.usefixtures("plain_template")
def test_a_project_is_written_and_committed(kindling: Command) -> None:
    result = kindling("new", "leafnet")
    assert (result.code, result.err) == (0, "")
    assert f"{len(files(Path('leafnet')))} files written to leafnet" in result.out
    assert "  cd leafnet\n  make train\n  make test\n" in result.out
    assert git(Path("leafnet"), "status", "--porcelain") == ""
    assert "copier update --defaults" not in Path("leafnet/README.md").read_text()  # the template is in no repository
    assert git(Path("leafnet"), "log", "--format=%s").startswith("Begin with the template of Kindling ")


@pytest.mark.usefixtures("plain_template")
def test_each_question_has_an_option(kindling: Command) -> None:
    options = {
        "--name": "Leaf Net",
        "--description": 'Leaves, "told apart" \\ ☘',
        "--author": "Ada O'Hara",
        "--license": "BSD-3-Clause",
        "--task": "table",
        "--engine": ">=0.1,<2",
    }
    assert kindling("new", "somewhere", *(word for option in options.items() for word in option)).code == 0
    answers = yaml.safe_load(Path("somewhere/.copier-answers.yml").read_text())
    assert {f"--{name}": value for name, value in answers.items() if not name.startswith("_")} == options
    assert requirement("somewhere") == "kindling-ml>=0.1,<2"
    assert "LeafDataModule(kindling.TableDataModule)" in Path("somewhere/src/leaf_net/data.py").read_text()
    assert "Ada O'Hara" in Path("somewhere/LICENSE").read_text()
    asked = {name for name, about in yaml.safe_load((ROOT / "copier.yml").read_text()).items() if name[0] != "_"
             and about.get("when", True)}  # fmt: skip
    assert {f"--{name}" for name in asked} == options.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("plain_template")
def test_invalid_names_end_in_one_line_with_a_suggestion(kindling: Command, folder: Path, name: str) -> None:
    before = set(folder.rglob("*"))
    result = kindling("new", name)
    assert (result.code, result.err.count("\n")) == (2, 1)
    wrong, suggestion = NAMES[name]
    assert wrong in result.err
    assert result.err.endswith(f": choose another, such as {suggestion}\n")
    assert len(result.err) < 300
    assert set(folder.rglob("*")) == before
    if name in ("class", "2fast", "Über", "叶子", "l" * 31):  # the suggestion is valid
        assert kindling("new", suggestion).code == 0


def test_copier_alone_refuses_an_invalid_name(kindling: Command, plain_template: Path) -> None:
    with pytest.raises(ValueError, match="Validation error") as raised:
        run_copy(str(plain_template), "class", {}, defaults=True, quiet=True)
    sentence = str(raised.value).partition("'name': ")[2]
    assert " ".join(sentence.split()) in kindling("new", "class").err


@pytest.mark.parametrize(
    ("typed", "written", "way"),
    [
        ("leafnet/", "leafnet", "cd leafnet/"),
        ("Leaf Net", "Leaf Net", "cd 'Leaf Net'"),
        ("gone/too/leafnet", "gone/too/leafnet", "cd gone/too/leafnet"),
        ("{here}/empty/../leafnet", "leafnet", "cd {here}/empty/../leafnet"),
        ("~/leaf net", "home/leaf net", "cd '{here}/home/leaf net'"),
        (".", ".", ""),
    ],
)
@pytest.mark.usefixtures("plain_template")
def test_a_folder_may_be_any_path(
    kindling: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, typed: str, written: str, way: str
) -> None:
    monkeypatch.setenv("HOME", f"{folder}/empty/home")
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    here = str(Path.cwd())
    result = kindling("new", typed.replace("{here}", here))
    assert (result.code, result.err) == (0, "")
    written = written if written == "." or not typed.startswith("{here}") else f"{here}/leafnet"
    assert Path(written, "pyproject.toml").exists()
    lines = [line.strip() for line in result.out.splitlines() if line.startswith("  ")]
    assert lines == [*([way.replace("{here}", here)] if way else []), "make train", "make test"]


@pytest.mark.parametrize("name", ["my-net", "my_net", "My Net", "MY  NET"])
@pytest.mark.usefixtures("plain_template")
def test_distribution_and_command_have_a_dash_and_the_package_has_none(kindling: Command, name: str) -> None:
    assert kindling("new", "somewhere", "--name", name).code == 0
    build = tomllib.loads(Path("somewhere/pyproject.toml").read_text())["project"]
    assert (build["name"], build["scripts"]) == ("my-net", {"my-net": "kindling.cli:program"})
    assert Path("somewhere/src/my_net/__init__.py").exists()
    shown = "".join(Path("somewhere", file).read_text() for file in ("README.md", "Makefile", "scripts/slurm.sh"))
    assert set(re.findall(r"my.net(?= (?:fit|test|predict|runs|schema))", shown)) == {"my-net"}
    assert set(re.findall(r"src/(my.net)", shown)) == {"my_net"}


def test_letters_with_accents_become_those_of_ascii() -> None:
    settings = yaml.safe_load((ROOT / "copier.yml").read_text())
    pairs = zip(settings["accented"]["default"], settings["unaccented"]["default"], strict=True)
    wrong = [pair for pair in pairs if unicodedata.normalize("NFD", pair[0])[0] not in (pair[1], *"øđłıħŧ")]
    assert wrong == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["full"], "full already exists and is not an empty folder: choose another, such as full-2"),
        (["full/file"], "full/file already exists and is not an empty folder"),
        (["full/file/leafnet"], "full/file is a file: leafnet can't be created in it"),
        (["."], "already exists and is not an empty folder: choose another, such as"),
        ([""], "name a new folder for the project, such as leafnet"),
        (["leafnet", "--name", ""], "the name '' must begin with a letter"),
        (["leafnet", "--template", "nowhere"], "--template nowhere: there is no git repository with the tag v"),
        (["share/leafnet"], "is inside"),
        (["leafnet", "--engine", "../nowhere"], "--engine ../nowhere: there is no such file or folder"),
        (["leafnet", "--engine", "banana"], "--engine banana: give a path, a git URL or versions such as >=0.1"),
        (["leafnet", "--engine", ""], "--engine is empty: give a path, a git URL or versions such as >=0.1"),
        (["leafnet", "--plugin", "models.py"], "new takes no --plugin"),
        (["leafnet", "--task", "text"], "invalid choice: 'text'"),
        (["leafnet", "--author", "two\nlines"], "the author must be one line"),
        (["leafnet", "--description", " "], "the description must be one line"),
        ([], "name a new folder for the project, such as leafnet"),
    ],
)
@pytest.mark.usefixtures("plain_template")
def test_mistakes_end_in_one_line(kindling: Command, folder: Path, options: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    before = set(folder.rglob("*"))
    result = kindling("new", *options)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("typed", "free"),
    [("leaf", "leaf-3"), ("a/b", "a/b-2"), ("Über", "leafnet-2"), ("l" * 30, f"{'l' * 26}-2"), (".", "empty-2")],
)
@pytest.mark.usefixtures("plain_template")
def test_another_name_for_a_folder_that_exists_is_free_and_valid(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, typed: str, free: str
) -> None:
    for name in ("leaf/file", "leaf-2/file", "a/b/file", "Über/file", f"{'l' * 30}/file", "empty/file"):
        Path(name).mkdir(parents=True)
    if typed == ".":
        monkeypatch.chdir("empty")
    result = kindling("new", typed)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.endswith(f": choose another, such as {free}\n")
    assert kindling("new", free).code == 0


def test_a_missing_copier_is_reported_with_the_command_to_install_it(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kindling.utils.optional.find_spec", lambda name: None)
    result = kindling("new", "leafnet")
    assert (result.code, result.err) == (1, "kindling: error: this needs copier: pip install 'kindling-ml[new]'\n")


def test_a_project_inside_a_repository_gets_no_repository(kindling: Command, plain_template: Path) -> None:
    git(plain_template.parent, "init", "--quiet")
    Path("empty").mkdir()  # an empty folder is accepted
    assert kindling("new", "empty", "--name", "leafnet").code == 0
    assert not Path("empty/.git").exists()


def test_copier_alone_writes_the_same_files(kindling: Command, plain_template: Path) -> None:
    answers = {"name": "leafnet", "engine": ">=0.1", "author": "Ada"}
    run_copy(str(plain_template), "two", answers, defaults=True, quiet=True)
    assert kindling("new", "leafnet", "--engine", ">=0.1", "--author", "Ada").code == 0
    ours, theirs = files(Path("leafnet")), files(Path("two"))
    answered = [yaml.safe_load(project.pop(".copier-answers.yml")) for project in (ours, theirs)]
    assert answered[0] == answered[1]  # in any order
    assert ours == theirs


def test_copier_alone_accepts_a_bare_repository_and_quotes_the_folder(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare.git")
    run_copy(str(tmp_path / "bare.git"), tmp_path / "Leaf Net", defaults=True)
    assert requirement(tmp_path / "Leaf Net") == f"kindling-ml @ git+file://localhost{tmp_path}/bare.git@v0.1.0"
    assert f"  cd '{tmp_path / 'Leaf Net'}'\n" in capfd.readouterr().err


DIRECT = {
    "vcs": ({"url": "https://x.org/k.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}, "git+https://x.org/k.git@c0ffee"),
    "wheel": ({"url": "file://{here}/k%20l.whl", "archive_info": {}}, "file://{here}/k%20l.whl"),
    "web": ({"url": "https://x.org/k.whl", "archive_info": {}}, "https://x.org/k.whl"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.usefixtures("plain_template")
def test_the_project_installs_the_engine_from_the_same_source(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str
) -> None:
    (folder / "k l.whl").touch()
    direct, expected = DIRECT[kind]
    text = json.dumps(direct).replace("{here}", str(folder))

    class Installed(Distribution):
        def read_text(self, filename: str) -> str | None:
            return text if filename == "direct_url.json" else None

        def locate_file(self, path: object) -> Path:
            return folder

    monkeypatch.setattr("kindling.cli.new.distribution", lambda name: Installed())
    assert kindling("new", "leafnet").code == 0
    assert requirement("leafnet") == f"kindling-ml @ {expected.replace('{here}', str(folder))}"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("0.2.0", "kindling-ml==0.2.0"),
        ("~=0.2", "kindling-ml~=0.2"),
        ("https://x.org/k.git", "kindling-ml @ git+https://x.org/k.git"),
        ("file:///srv/k.git", "kindling-ml @ git+file://localhost/srv/k.git"),
        ("git+ssh://git@x.org/k.git@v1", "kindling-ml @ git+ssh://git@x.org/k.git@v1"),
        ("git@x.org:a/k.git", "kindling-ml @ git+ssh://git@x.org/a/k.git"),
        ("gh:a/k", "kindling-ml @ git+https://github.com/a/k"),
        ("a b", "kindling-ml @ file://{here}/a%20b"),
        ("bare", "kindling-ml @ git+file://localhost{here}/bare"),
    ],
)
@pytest.mark.usefixtures("plain_template")
def test_an_engine_may_be_a_version_a_url_or_a_path(
    kindling: Command, folder: Path, engine: str, expected: str
) -> None:
    (folder / "a b").mkdir()
    git(folder, "init", "--quiet", "--bare", "bare")
    assert kindling("new", "leafnet", "--engine", engine).code == 0
    assert requirement("leafnet") == expected.replace("{here}", str(folder))


@pytest.mark.slow
def test_the_engine_is_the_remote_and_version_of_the_template_in_use(
    kindling: Command, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(clone))
    monkeypatch.setattr("kindling.cli.new.SHARE", clone)
    assert kindling("new", "first").code == 0
    assert requirement("first") == f"kindling-ml @ git+file://localhost{repository}@v0.1.0"
    answers = yaml.safe_load(Path("first/.copier-answers.yml").read_text())
    assert (answers["_src_path"], answers["_commit"]) == (f"git+file://{repository}", "v0.1.0")
    (clone / "copier.yml").open("a").write("# a change that no one else has\n")
    result = kindling("new", "second")
    assert (result.code, requirement("second")) == (0, f"kindling-ml @ file://{clone}")
    note, *rest = result.out.splitlines()
    assert "has uncommitted changes" in note
    assert [line.split()[0] for line in rest[-4:]] == ["cd", "make", "make", "note:"]
    assert rest[-5].endswith("files written to second; next:")
    assert f"CI and other machines can't install file://{clone}: put the URL of a git repository" in rest[-1]
    assert not Path("second/.github/workflows/update.yml").exists()  # CI can't read the template either
    assert "Each month" not in Path("second/README.md").read_text()
    assert ".venv/bin/copier update" in Path("second/README.md").read_text()


@pytest.mark.usefixtures("plain_template")
def test_a_failed_commit_is_reported(kindling: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = folder / "hooks/pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (folder / "gitconfig").write_text(f"[core]\n\thooksPath = {hook.parent}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))
    result = kindling("new", "leafnet")
    assert (result.code, result.err) == (0, "kindling: git commit failed: the project is not committed\n")
    (folder / "gitconfig").write_text("[broken\n")
    assert kindling("new", "second").err == "kindling: git init failed: the project is not committed\n"


def test_all_dependencies_are_refused_by_both_their_names() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*build["dependencies"], *(line for extra in build["optional-dependencies"].values() for line in extra)]
    distributions = {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
    modules = {name for name, of in packages_distributions().items() if distributions & set(map(normal, of))}
    assert {"yaml", "PIL", "sklearn", "torchvision"} <= modules
    importable = {name.lower() for name in modules if name.isidentifier() and name[0] != "_"}
    refused = set(yaml.safe_load((ROOT / "copier.yml").read_text())["other_packages"]["default"].split())
    assert (distributions | importable) - refused == set()


def normal(distribution: str) -> str:
    return distribution.lower().replace("-", "_")


def test_all_keywords_and_modules_of_python_are_refused() -> None:
    settings = yaml.safe_load((ROOT / "copier.yml").read_text())
    modules = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    assert modules <= set(settings["standard_library"]["default"].split())
    assert {name for name in keyword.kwlist if name.islower()} <= set(settings["keywords"]["default"].split())
