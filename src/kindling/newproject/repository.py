"""The repository that this package lies in, and what git does to it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def check_root() -> None:
    """Raises ValueError where the package was installed without its repository."""
    if not all((ROOT / name).is_file() for name in ("pyproject.toml", "README.md", "src/kindling/cli.py")):
        raise ValueError(
            f"a project is written out of the whole repository, and {Path(__file__).parents[1]} is not in one: clone "
            "it, then there: PYTHONPATH=src python3 -m kindling new"
        )


def git(folder: Path, *arguments: str, identity: tuple[str, str] | None = None) -> str | None:
    """Runs git.

    Args:
        folder: Where.
        arguments: What it is to do.
        identity: Name and address of who commits.

    Returns:
        What it printed; None where there is no git, or it failed.
    """
    who: dict[str, str] = {}
    if identity:
        for role in ("AUTHOR", "COMMITTER"):
            who |= {f"GIT_{role}_NAME": identity[0], f"GIT_{role}_EMAIL": identity[1]}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=os.environ | who, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def files() -> list[str]:
    """The files of the repository: what git tracks, or without git, all that .gitignore does not name."""
    tracked = (git(ROOT, "ls-files", "-z") or "").split("\0")
    found = [path for path in tracked if (ROOT / path).is_file()]
    if found:
        return sorted(found)
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = [".git", *(pattern.rstrip("/") for pattern in patterns if pattern and not pattern.startswith("#"))]
    return sorted(_walk(ROOT, ignored))


def _walk(folder: Path, ignored: list[str]) -> list[str]:
    found = []
    for path in folder.iterdir():
        where = path.relative_to(ROOT).as_posix()
        if any(fnmatch(f"/{where}" if pattern.startswith("/") else path.name, pattern) for pattern in ignored):
            continue
        found += _walk(path, ignored) if path.is_dir() else [where]
    return found


def is_clean() -> bool:
    """Whether the repository is one of git, and all that is in it committed."""
    top = git(ROOT, "rev-parse", "--show-toplevel")
    return top is not None and Path(top.strip()).resolve() == ROOT and git(ROOT, "status", "--porcelain") == ""


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
