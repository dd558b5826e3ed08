"""The repository that this package lies in, and what git does to it."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# With these, which git sets for its hooks, it works on another repository than that of the folder.
ELSEWHERE = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX"),
}


def check_root() -> None:
    """Raises ValueError where the package was installed without its repository."""
    if not all((ROOT / name).is_file() for name in ("pyproject.toml", "README.md", "src/kindling/cli.py")):
        raise ValueError(
            f"a project is written out of the whole repository, and {Path(__file__).parents[1]} is not in one: clone "
            "it, then there: PYTHONPATH=src python3 -m kindling new"
        )


class GitError(Exception):
    """What git did not do, with its own reason in a line."""


def run_git(folder: Path, *arguments: str, typed: str = "", identity: tuple[str, str] | None = None) -> str:
    """Runs git.

    Args:
        folder: Where.
        arguments: What it is to do.
        typed: What it reads.
        identity: Name and address of who commits, where the environment names no one.

    Returns:
        What it printed.

    Raises:
        GitError: If there is no git, or it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    if identity:
        for role in ("AUTHOR", "COMMITTER"):
            environment.setdefault(f"GIT_{role}_NAME", identity[0])
            environment.setdefault(f"GIT_{role}_EMAIL", identity[1])
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=environment, input=typed.encode(), capture_output=True)
    except FileNotFoundError as error:
        raise GitError("git is not installed") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()] or [f"git {arguments[0]} failed"]
        # Warnings come before the reason, and advice after it.
        raise GitError(next((line for line in said if line.startswith(("fatal:", "error:"))), said[0]))
    return done.stdout.decode(errors="replace")


def git(folder: Path, *arguments: str, identity: tuple[str, str] | None = None) -> str | None:
    """What git prints; None where there is no git, or it failed."""
    try:
        return run_git(folder, *arguments, identity=identity)
    except GitError:
        return None


def files() -> list[str]:
    """The files of the repository: what git tracks or would; without git, all that .gitignore does not name."""
    if found := {*_listed("--cached"), *untracked()}:
        return sorted(found)
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = [".git", *(pattern.rstrip("/") for pattern in patterns if pattern and not pattern.startswith("#"))]
    return sorted(_walk(ROOT, ignored))


def untracked() -> list[str]:
    """The files that git would track, and does not yet."""
    return _listed("--others", "--exclude-standard")


def _listed(*which: str) -> list[str]:
    paths = (git(ROOT, "ls-files", "-z", *which) or "").split("\0")
    return [path for path in paths if (ROOT / path).is_file()]


def _walk(folder: Path, ignored: list[str]) -> list[str]:
    found = []
    for path in folder.iterdir():
        where = path.relative_to(ROOT).as_posix()
        if any(fnmatch(f"/{where}" if pattern.startswith("/") else path.name, pattern) for pattern in ignored):
            continue
        found += _walk(path, ignored) if path.is_dir() else [where]
    return found


def check_committed() -> None:
    """Raises ValueError where what is in the repository could be lost."""
    what = f"{ROOT} is to be turned into a project of yours"
    if not (ROOT / ".git").exists():
        first = "git init && git add --all && git commit --message Template"
        raise ValueError(f"{what}, and there is no repository of git that keeps what it was: type {first}")
    try:
        changes = run_git(ROOT, "status", "--porcelain", "--untracked-files=all")
    except GitError as error:
        raise ValueError(f"{what}, and git must know what is in it: {error}") from error
    if changes:
        raise ValueError(f"{what}: commit all changes with git first")


def repository_around(folder: Path) -> str | None:
    """The repository that a folder lies in and that does not ignore it."""
    around = git(folder, "rev-parse", "--show-toplevel")
    if around is None or git(folder, "check-ignore", "--quiet", str(folder)) is not None:
        return None
    return around.strip()


def commit(folder: Path, written: Iterable[str], message: str, author: tuple[str, str]) -> None:
    """Commits what was written, all of it, and that the rest is gone.

    Args:
        folder: The project; where it has no history yet, that begins.
        written: The paths of its files.
        message: What the commit is called.
        author: Who commits, where git knows no one.

    Raises:
        GitError: If git does not.
    """
    if folder != ROOT:
        run_git(folder, "init", "--quiet", "--initial-branch", "main")
    else:
        run_git(folder, "add", "--all")
    # A person's own list of what git is to ignore may have files of ours in it.
    run_git(folder, "add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul", typed="\0".join(written))
    known = git(folder, "config", "user.name") and git(folder, "config", "user.email")
    run_git(folder, "commit", "--quiet", "--message", message, identity=None if known else author)


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files into a folder, those that can be run as such."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if content.startswith(b"#!"):
            path.chmod(0o755)


def replace(project: Path) -> None:
    """Puts a project in place of the template; where that fails, all is as it was. What git ignores stays."""
    try:
        old = [ROOT / name for name in files()]
        for path in old:
            path.unlink()
        for folder in sorted(
            {parent for path in old for parent in path.parents if ROOT in parent.parents}, reverse=True
        ):
            shutil.rmtree(folder / "__pycache__", ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()  # where nothing is left
        shutil.copytree(project, ROOT, dirs_exist_ok=True)
    except BaseException:
        git(ROOT, "add", "--all")
        git(ROOT, "reset", "--hard")
        raise
