"""A git repository with the project template, and helpers for the projects created from it."""

import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASKS = ("images", "table", "own")


def git(folder: Path, *arguments: str) -> str:
    """Run git with a test user as the author, and return its output."""
    person = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    command = ["git", "-C", str(folder), *person, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, message: str, tag: str = "") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    if tag:
        git(folder, "tag", tag)


def make_repository(folder: Path) -> Path:
    """Create a repository that contains only the template, with the tag v0.1.0."""
    shutil.copytree(ROOT / "template", folder / "template")
    for name in ("copier.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Begin", "v0.1.0")
    return folder


def install(project: Path) -> Path:
    """Describe a project as an installed package, with its entry points, and return the folder for `sys.path`."""
    build = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    about = project / "src" / f"{build['name']}-{build['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {build['name']}\nVersion: {build['version']}\n")
    (group,) = build["entry-points"]
    points = "".join(f"{name} = {value}\n" for name, value in build["entry-points"][group].items())
    (about / "entry_points.txt").write_text(f"[{group}]\n{points}")
    return about.parent


def files(project: Path) -> dict[str, str]:
    """Return the text of each file of a project by its path, without git's files and those written by training."""
    paths = (path for path in project.rglob("*") if path.is_file())
    names = {path.relative_to(project).as_posix(): path for path in paths}
    return {
        name: path.read_text(encoding="utf-8")
        for name, path in names.items()
        if name.split("/")[0] not in (".git", "runs", "data") and "__pycache__" not in name
    }
