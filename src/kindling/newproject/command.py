"""`kindling new`: writes a project of one's own."""

import re
import shlex
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from kindling import __version__
from kindling.errors import OneLineParser, UsageError
from kindling.newproject.names import check_package, title
from kindling.newproject.parts import PARTS, check_parts, goes
from kindling.newproject.readme import readme
from kindling.newproject.repository import (
    ROOT,
    GitError,
    check_committed,
    check_root,
    commit,
    files,
    git,
    replace,
    repository_around,
    untracked,
    write,
)
from kindling.newproject.rewrite import Project, rewrite
from kindling.newproject.tidy import tidy
from kindling.wording import listed

ADDRESS = r"[a-zA-Z0-9_'+-]+(?:\.[a-zA-Z0-9_'+-]+)*@[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*"  # as a wheel can have it


def run(command: str, options: Sequence[str]) -> None:
    """Writes the project that is asked for.

    Raises:
        UsageError: If it can't be; nothing has been written then.
    """
    typed = _parser().parse_args(options)
    where = Path(typed.folder).absolute().resolve()
    try:
        check_root()
        check_folder(where)
        without = tuple(PARTS) if typed.minimal else left_out(typed.without)
        texts, binaries, gone = read_all(without)
        new = untracked()
        package = typed.package or where.name.replace("-", "_")
        ours = (ROOT / "README.md").read_text(encoding="utf-8")  # a new one shows code of it
        check_package(package, {**texts, "README.md": ours})
        author, email = author_of(typed.author, package)
        description = one_line("--description", typed.description)
    except ValueError as error:
        raise UsageError(str(error)) from error
    project = Project(package, description, author, email, datetime.now().year, without, __version__)
    contents = {path: text.encode() for path, text in rewrite(texts, gone, project).items()}
    contents["README.md"] = readme(ours, project).encode()
    contents |= {project.rename(path): content for path, content in binaries.items()}
    is_tidy = make(where, contents)
    print(f"{title(package)}: {typed.folder}, {len(contents)} files")
    if along := [path for path in new if project.rename(path) in contents]:
        print(f"with files that the template's git does not track: {listed(along, 5)}")
    committed = begin_history(where, contents, project)
    print("\n".join(next_steps(where, typed.folder, is_tidy, committed)))


def next_steps(where: Path, typed: str, is_tidy: bool, committed: bool) -> list[str]:
    """What to type next, in lines."""
    lines = ["next:", *([] if where == ROOT else [f"  cd {shlex.quote(typed)}"])]
    if where == ROOT and (ROOT / ".venv").exists():
        lines.append("  make clean    # the environment has the old name")
    lines += ["  make train", "  make test"]
    if not is_tidy:  # sorted and wrapped as the name demands; `make test` installs ruff
        again = " && git commit --all --amend --no-edit" if committed else ""
        lines.append("there is no ruff here, and CI checks style. Before you push:")
        lines.append(f"  .venv/bin/ruff check --fix && .venv/bin/ruff format{again}")
    return lines


def _parser() -> OneLineParser:
    parser = OneLineParser(
        "kindling new",
        description="Writes a project of your own from this one: renamed, with its tests, recipes and workflows. In "
        "the folder . it turns this very repository into one.",
        epilog=textwrap.fill(f"parts that can be left out: {', '.join(PARTS)}", 100),
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="Where to write it: a new folder, or . for this repository.")
    parser.add_argument("--package", help="Name of the package and of the command; by default that of the folder.")
    parser.add_argument("--description", default="A PyTorch Lightning project.", help="What it is, in a line.")
    parser.add_argument("--author", help="NAME or 'NAME <ADDRESS>'; by default as git has it.")
    parser.add_argument("--without", metavar="PARTS", default="", help="Parts to leave out, with commas between them.")
    parser.add_argument("--minimal", action="store_true", help="Leave out all parts that can be left out.")
    return parser


def check_folder(folder: Path) -> None:
    """Raises ValueError where no project can be written into a folder."""
    if folder == ROOT:
        check_committed()
    elif ROOT in folder.parents:
        raise ValueError(f"{folder} is inside the template: name a folder outside of {ROOT}, ../leafnet for example")
    elif not folder.parent.is_dir():
        raise ValueError(f"there is no folder {folder.parent} to make {folder.name} in")
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists already and is not an empty folder: name another")


def left_out(without: str) -> tuple[str, ...]:
    """The parts that are named, with commas between them."""
    names = tuple(name.strip() for name in without.split(",") if name.strip())
    check_parts(names)
    return names


def one_line(option: str, text: str) -> str:
    """A text without space around it; raises ValueError where it is not one line."""
    if not text.strip() or not text.strip().isprintable():
        raise ValueError(f"{option} must be one line of text, not {text!r}")
    return text.strip()


def author_of(typed: str | None, package: str) -> tuple[str, str]:
    """Name and address of the author: as typed, as git has them, or neither."""
    person = re.compile(rf"([^<>]*[^<>\s])(?: +<({ADDRESS})>)?")
    if typed is None:  # git takes almost anything
        name, address = ((git(ROOT, "config", f"user.{what}") or "").strip() for what in ("name", "email"))
        name = name if person.fullmatch(name) and name.isprintable() else f"The {title(package)} authors"
        return name, address if re.fullmatch(ADDRESS, address) else ""
    found = person.fullmatch(one_line("--author", typed))
    if not found or "@" in found[1]:
        raise ValueError(f"--author must be a name, or 'Ada Lovelace <ada@example.org>', not {typed!r}")
    return found[1], found[2] or ""


def read_all(without: Sequence[str]) -> tuple[dict[str, str], dict[str, bytes], list[str]]:
    """The files of the template: those of text and the others that a project has, and the paths of the rest."""
    texts: dict[str, str] = {}
    binaries: dict[str, bytes] = {}
    gone: list[str] = []
    for path in files():
        if goes(path, without):
            gone.append(path)
            continue
        content = (ROOT / path).read_bytes()
        try:
            texts[path] = content.decode().replace("\r\n", "\n")
        except UnicodeDecodeError:
            binaries[path] = content
    return texts, binaries, gone


def make(folder: Path, contents: Mapping[str, bytes]) -> bool:
    """Writes the files, all or none of them; says whether their imports and lines are as ruff wants them."""
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary, "project")
        write(project, contents)
        is_tidy = tidy(project)
        if folder == ROOT:
            replace(project)
            return is_tidy
        try:
            shutil.copytree(project, folder, dirs_exist_ok=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return is_tidy


def begin_history(folder: Path, written: Iterable[str], project: Project) -> bool:
    """Commits the project: as the first commit of a new repository, or the next one of this. Returns if it did."""
    if folder != ROOT and (around := repository_around(folder)):
        print(f"it is in the repository {around}, and gets none of its own: nothing is committed")
        return False
    try:
        author = project.author, project.email or f"{project.package}@localhost"
        commit(folder, written, title(project.package), author)
    except GitError as error:
        print(f"the project is not committed: {error}", file=sys.stderr)
        return False
    return True
