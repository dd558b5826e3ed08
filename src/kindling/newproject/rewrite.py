"""What changes in the files of a new project: names, what names the parts left out, and who it is of."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from kindling.newproject.names import title
from kindling.newproject.parts import extras, packages

LINE = 120  # letters


@dataclass(frozen=True)
class Project:
    """What is to be written.

    Attributes:
        package: Name of the package, and of the command.
        description: What it is, in a line.
        author: Who wrote it.
        email: Where to write to, or nothing.
        year: Of the copyright.
        without: Parts that are left out.
        version: Version of the template.
    """

    package: str
    description: str
    author: str
    email: str
    year: int
    without: tuple[str, ...]
    version: str

    def rename(self, text: str) -> str:
        """Puts the project's name in place of the template's."""
        name = title(self.package)
        return (
            text.replace("KINDLING", self.package.upper()).replace("Kindling", name).replace("kindling", self.package)
        )


def rewrite(texts: Mapping[str, str], gone: Collection[str], project: Project) -> dict[str, str]:
    """The files of a new project.

    Args:
        texts: The text of each file that stays, by its path in the repository.
        gone: The paths that do not.
        project: What it is to be.

    Returns:
        The new texts by the new paths.
    """
    changed = dict(texts)
    unlisted(changed, gone)
    changed["pyproject.toml"] = of_project(changed["pyproject.toml"], gone, project)
    if not any(path.startswith("scripts/") for path in changed):
        changed["pyproject.toml"] = without_scripts(changed["pyproject.toml"])
    init = "src/kindling/__init__.py"
    changed[init] = re.sub(r'^""".*?"""', '"""Kindling."""', changed[init], flags=re.DOTALL)
    changed[init] = re.sub(r'^__version__ = ".*"', '__version__ = "0.1.0"', changed[init], flags=re.MULTILINE)
    written = {project.rename(path): project.rename(text) for path, text in changed.items()}
    written["LICENSE"] = re.sub(
        r"^Copyright.*", lambda _: f"Copyright (c) {project.year} {project.author}", texts["LICENSE"], flags=re.M
    )
    return written


def unlisted(texts: dict[str, str], gone: Collection[str]) -> None:
    """Takes what is gone out of the lists of what there is, a line in cli.py and in each `__init__.py`."""
    paths = [PurePosixPath(path).relative_to("src").with_suffix("") for path in gone if path.startswith("src/")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    line_of = re.compile("|".join(rf'\b{re.escape(module)}[" ]' for module in sorted(modules)) or "$^")
    lists = [path for path in texts if path == "src/kindling/cli.py" or re.match(r"src/.*/__init__\.py", path)]
    names: set[str] = set()
    for path in lists:
        lines = texts[path].splitlines(keepends=True)
        for line in filter(line_of.search, lines):
            names.update(re.findall(r"\w+", line.partition(" import ")[2]))
        texts[path] = "".join(line for line in lines if not line_of.search(line))
    for path in lists:
        for name in names:
            texts[path] = re.sub(rf'^ +"?{name}"?,\n', "", texts[path], flags=re.MULTILINE)
            texts[path] = re.sub(rf', "?\b{name}\b"?|"?\b{name}\b"?, ', "", texts[path])


def of_project(text: str, gone: Collection[str], project: Project) -> str:
    """pyproject.toml with the project's author and description, and without what the parts left out need."""
    people = {"name": project.author} | ({"email": project.email} if project.email else {})
    author = ", ".join(f"{key} = {toml(value)}" for key, value in people.items())
    head = f"description = {toml(project.description)}\nauthors = [{{{author}}}]"
    text = re.sub(r"^description = .*", lambda _: head, text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^keywords = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r'^    "(Development Status|Intended Audience) ::.*\n', "", text, flags=re.MULTILINE)
    for extra in extras(project.without):
        text = re.sub(rf"^{extra} = \[(\n(    .*\n)*\]|.*\]).*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"kindling\[([\w,]+)\]", lambda found: _self(found[1].split(","), extras(project.without)), text)
    text = re.sub(r'^    "kindling",\n', "", text, flags=re.MULTILINE)  # there is nothing left that it asks of itself
    for package in packages(project.without):
        text = re.sub(rf'^    "{re.escape(package)}\b.*\n', "", text, flags=re.MULTILINE)
        text = re.sub(rf'"{re.escape(package)}\.\*", ', "", text)
    for path in map(PurePosixPath, gone):
        if path.suffix == ".py" and path.parts[0] in ("scripts", "tests"):
            text = re.sub(rf', "{path.stem}"', "", text)
    if (longer := len(project.package) - len("kindling")) > 0:
        most = f"max-line-length = {LINE + 3 * longer}  # of text, in which the name may stand"
        pydocstyle = "[tool.ruff.lint.pydocstyle]"
        text = text.replace(pydocstyle, f"[tool.ruff.lint.pycodestyle]\n{most}\n\n{pydocstyle}")
    return text


def _self(extras: list[str], gone: Collection[str]) -> str:
    left = [extra for extra in extras if extra not in gone]
    return f"kindling[{','.join(left)}]" if left else "kindling"


def without_scripts(text: str) -> str:
    """pyproject.toml of a project without scripts."""
    text = re.sub(r'^(mypy_path|pythonpath) = \["scripts"\]\n', "", text, flags=re.MULTILINE)
    return text.replace(', "scripts"]', "]")


def toml(text: str) -> str:
    """A text as TOML and JSON write it."""
    return json.dumps(text, ensure_ascii=False)
