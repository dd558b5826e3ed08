"""What changes in the files of a new project: names, lists of what there is, and who it is of."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from kindling.newproject.names import title
from kindling.newproject.pyproject import with_author, with_longer_lines, without_parts
from kindling.newproject.texts import adapt, docstring, fill


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
        names = {"KINDLING": self.package.upper(), "Kindling": title(self.package), "kindling": self.package}
        for ours, theirs in names.items():
            text = text.replace(ours, theirs)
        return text


def rewrite(texts: Mapping[str, str], gone: Collection[str], project: Project) -> dict[str, str]:
    """The files of a new project.

    Args:
        texts: The text of each file that stays, by its path in the repository.
        gone: The paths of those that do not.
        project: What it is to be.

    Returns:
        The new texts by the new paths.
    """
    changed = {path: adapt(path, text, project.without) for path, text in unlisted(texts, gone).items()}
    init = "src/kindling/__init__.py"
    changed[init] = re.sub(r'^__version__ = ".*"', '__version__ = "0.1.0"', changed[init], flags=re.MULTILINE)
    build = without_parts(changed["pyproject.toml"], gone, project.without)
    if (more := len(project.package) - len("kindling")) > 0:
        build = with_longer_lines(build, more)
    written = {project.rename(path): project.rename(text) for path, text in changed.items()}
    written |= {path: fill(text) for path, text in written.items() if path.endswith(".md")}
    init = project.rename(init)
    head = docstring(title(project.package), project.description)
    written[init] = re.sub(r'^""".*?"""', lambda _: head, written[init], flags=re.DOTALL)
    written["pyproject.toml"] = with_author(project.rename(build), project.description, project.author, project.email)
    copyright_line = f"Copyright (c) {project.year} {project.author}"
    written["LICENSE"] = re.sub(r"^Copyright.*", lambda _: copyright_line, texts["LICENSE"], flags=re.MULTILINE)
    return written


def unlisted(texts: Mapping[str, str], gone: Collection[str]) -> dict[str, str]:
    """Takes what is gone out of the lists of what there is, a line in cli.py and in each `__init__.py`."""
    paths = [PurePosixPath(path).relative_to("src").with_suffix("") for path in gone if path.startswith("src/")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    named = re.compile("|".join(rf'\b{re.escape(module)}[" ]' for module in modules))
    lists = [path for path in texts if path == "src/kindling/cli.py" or re.match(r"src/.*/__init__\.py", path)]
    changed, names = dict(texts), set[str]()
    for path in lists:
        lines = texts[path].splitlines(keepends=True)
        for line in filter(named.search, lines):
            names.update(re.findall(r"\w+", line.partition(" import ")[2]))
        changed[path] = "".join(line for line in lines if not named.search(line))
    for path in lists:
        for name in names:
            changed[path] = re.sub(rf'^ +"?{name}"?,\n', "", changed[path], flags=re.MULTILINE)
            changed[path] = re.sub(rf', "?\b{name}\b"?|"?\b{name}\b"?, ', "", changed[path])
    return changed
