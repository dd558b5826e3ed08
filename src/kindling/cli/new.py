"""`kindling new`: create a project with Copier from the template in this version of Kindling."""

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kindling import __version__
from kindling.cli.option_formatter import OptionFormatter
from kindling.cli.recipes import SHARE
from kindling.utils.console import say
from kindling.utils.errors import UsageError, UsageErrorParser
from kindling.utils.optional import require_extra
from kindling.utils.plugins import split_options
from kindling.utils.text import count_noun

LICENSES = ("MIT", "BSD-3-Clause", "Apache-2.0", "none")
TASKS = ("images", "table", "own")


def run(command: str, options: Sequence[str]) -> None:
    """Create a project, and commit it to a new git repository.

    Raises:
        UsageError: If an option is invalid; no files are written.
    """
    if split_options(options)[0]:
        raise UsageError("new takes no --plugin: create the project first, then move the file into its src folder")
    typed = _parser().parse_args(options)
    require_extra("new", "copier")
    if not typed.folder.strip():
        raise UsageError("FOLDER is missing: name a new folder for the project, such as leafnet")
    folder = Path(os.path.expanduser(typed.folder)).absolute().resolve()
    _check_folder(folder, Path(typed.folder))
    answers = {"name": folder.name if typed.name is None else typed.name, **_template_source()}
    if typed.template is not None:
        answers |= _repository(typed.template)
    given = {name: getattr(typed, name) for name in ("description", "author", "license", "task", "engine")}
    answers |= {name: value for name, value in given.items() if value is not None}
    if "author" not in answers and (author := _git(Path.cwd(), "config", "user.name")):
        answers["author"] = author
    if typed.engine is not None:
        answers["engine"] = _engine(typed.engine)
    _copy(folder, answers)
    _begin_history(folder)
    written = sum(path.is_file() for path in folder.rglob("*") if ".git" not in path.relative_to(folder).parts)
    if (SHARE / ".git").exists() and _git(SHARE, "status", "--porcelain"):
        say(f"note: {SHARE} has uncommitted changes; `copier update` needs a commit to compare with")
    say(f"{count_noun(written, 'file', 'files')} written to {typed.folder}; next:")
    cd = [] if folder == Path.cwd() else [f"cd {shlex.quote(os.path.expanduser(typed.folder))}"]
    print(*(f"  {command}" for command in (*cd, "make train", "make test")), sep="\n")
    if local := re.search(r'"kindling-ml @ ((?:git\+)?file:.*)"', (folder / "pyproject.toml").read_text("utf-8")):
        say(
            f"note: CI and other machines can't install {local[1]}: put the URL of a git repository or a version such "
            f"as kindling-ml>={__version__} in pyproject.toml"
        )


def _parser() -> UsageErrorParser:
    parser = UsageErrorParser(
        "kindling new",
        description="Create a project with a model, a data source, a recipe, tests and a notebook to edit. It imports "
        "Kindling; update it with `pip install --upgrade` and `copier update`.",
        usage="kindling new FOLDER [--OPTION VALUE ...]",
        formatter_class=OptionFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default="", help="New folder for the project.")
    parser.add_argument(
        "--name",
        help="Name of the project: for 'Leaf Net', the command is leaf-net, and the package leaf_net. "
        "[default: name of the folder]",
    )
    parser.add_argument("--description", help="Description in one line.")
    parser.add_argument("--author", help="Your name. [default: user.name of git]")
    parser.add_argument("--license", choices=LICENSES, default="MIT", help="License.")
    parser.add_argument("--task", choices=TASKS, default="images", help="Image folders, a table, or your own code.")
    parser.add_argument(
        "--engine",
        help="Source of Kindling for the project: a git URL, the path of a checkout or wheel, or a version such as "
        "0.2.0 or '>=0.2'. [default: the source of this installation]",
    )
    parser.add_argument(
        "--template",
        metavar="URL",
        help="Git repository of Kindling or your fork, for `copier update`. [default: the source of this "
        "installation; none for a wheel]",
    )
    return parser


def _check_folder(folder: Path, typed: Path) -> None:
    above = next(parent for parent in (*folder.parents, folder) if os.path.exists(parent))  # False for too long a name
    if not above.is_dir():
        raise UsageError(f"{above} is a file: {folder.name} can't be created in it")
    if os.path.exists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        name = folder.name[:26] if re.fullmatch("[A-Za-z][A-Za-z0-9 _-]*", folder.name) else "leafnet"
        others = (typed.parent / f"{name}-{number}" for number in count(2))
        free = next(other for other in others if not os.path.exists(os.path.expanduser(other)))
        raise UsageError(f"{folder} already exists and is not an empty folder: choose another, such as {free}")
    if SHARE in folder.parents:
        raise UsageError(f"{folder} is inside {SHARE}, the folder of Kindling: choose another")


def _engine(engine: str) -> str:
    """Return the value of `--engine`; a path is made absolute."""
    if not engine.strip():
        raise UsageError("--engine is empty: give a path, a git URL or versions such as >=0.1")
    path = Path(os.path.expanduser(engine))  # unlike Path.expanduser, it accepts ~=0.2
    if path.exists():
        return str(path.resolve())
    if "/" in engine and ":" not in engine:
        raise UsageError(f"--engine {engine}: there is no such file or folder")
    if ":" not in engine and engine != "template":
        try:
            SpecifierSet(engine if engine[0] in "<>=!~" else f"=={engine}")
        except InvalidSpecifier as error:
            raise UsageError(f"--engine {engine}: give a path, a git URL or versions such as >=0.1") from error
    return engine


def _repository(url: str) -> dict[str, str]:
    """Return Copier's answers for `--template`, a repository with the tag of this version."""
    version, source = f"v{__version__}", _git_url(url)
    if _git(Path.cwd(), "ls-remote", "--exit-code", source.removeprefix("git+"), f"refs/tags/{version}") is None:
        raise UsageError(f"--template {url}: there is no git repository with the tag {version} of this Kindling")
    return {"template_url": source, "template_version": version}


def _template_source() -> dict[str, str]:
    """Return Copier's answers for the source of this installation."""
    if (SHARE / "pyproject.toml").exists():
        return _checkout_source(SHARE)
    try:
        direct = json.loads(distribution("kindling-ml").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        direct = {}
    if "vcs_info" in direct:
        return {"template_url": _git_url(direct["url"]), "template_version": direct["vcs_info"]["commit_id"]}
    url = direct.get("url", "")
    path = unquote(urlsplit(url).path) if url.startswith("file:") else ""
    if path and not Path(path).exists():  # a wheel that was deleted after it was installed
        return {"engine": f">={__version__}"}
    return {"engine": path or url or f">={__version__}"}


def _checkout_source(checkout: Path) -> dict[str, str]:
    """Return the remote and commit of a checkout; empty if it differs from what was pushed."""
    remote = _git(checkout, "remote", "get-url", "origin")
    commit = _git(checkout, "rev-parse", "HEAD")
    is_pushed = _git(checkout, "branch", "--remotes", "--contains", "HEAD")
    if not (remote and commit and is_pushed) or _git(checkout, "status", "--porcelain"):
        return {}
    version = _git(checkout, "describe", "--tags", "--exact-match") or commit
    return {"template_url": _git_url(remote), "template_version": version}


def _git_url(remote: str) -> str:
    """Return a remote as a URL that Copier recognizes as a git repository."""
    url = Path(remote).resolve().as_uri() if Path(remote).exists() else remote
    return f"git+{url}" if "://" in url and not url.startswith(("git+", "git://")) else url


def _copy(folder: Path, answers: dict[str, str]) -> None:
    from copier import run_copy  # takes 0.5 s to import

    from_git = "HEAD" if (SHARE / ".git").exists() else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # uncommitted changes have been reported
            run_copy(str(SHARE), folder, answers, vcs_ref=from_git, defaults=True, overwrite=True, quiet=True)
    except ValueError as error:
        raise UsageError(re.sub(r"^Validation error for question '\w+': ", "", str(error))) from error


def _begin_history(folder: Path) -> None:
    """Commit the project to a new git repository, which `copier update` needs, unless it is inside another."""
    if _git(folder, "rev-parse", "--show-toplevel"):
        return
    has_author = _git(folder, "config", "user.email")
    author = [] if has_author else ["-c", "user.name=kindling", "-c", "user.email=kindling@localhost"]
    commit = ["commit", "--quiet", "--message", f"Begin with the template of Kindling {__version__}"]
    for command in (["init", "--quiet", "--initial-branch", "main"], ["add", "--all"], commit):
        if _git(folder, *author, *command) is None:
            print(f"kindling: git {command[0]} failed: the project is not committed", file=sys.stderr)
            return


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
