"""pyproject.toml of a new project."""

import json
import re
from collections.abc import Collection
from pathlib import PurePosixPath

from kindling.newproject.parts import extras, packages


def without_parts(text: str, gone: Collection[str], without: Collection[str]) -> str:
    """Takes out what only the parts left out need.

    Args:
        text: The file.
        gone: Paths of the files that the project does not have.
        without: The parts left out.
    """
    for extra in extras(without):
        text = re.sub(rf"^{extra} = \[(\n(    .*\n)*\]|.*\]).*\n", "", text, flags=re.MULTILINE)
        text = re.sub(rf"(?<=kindling\[)(.*)\b{extra}\b,?", r"\1", text)
    text = text.replace(",]", "]")
    # Nothing is left that it asks of itself.
    text = re.sub(r'^    "kindling(\[\])?",.*\n', "", text, flags=re.MULTILINE)
    for package in packages(without):
        # Once: what an extra asks for beside, the notebooks, it still needs.
        text = re.sub(rf'^    "{re.escape(package)}\b.*\n', "", text, count=1, flags=re.MULTILINE)
        text = text.replace(f'"{package}.*", ', "")
    for path in map(PurePosixPath, gone):
        if path.suffix == ".py" and path.parts[0] in ("scripts", "tests"):
            text = text.replace(f', "{path.stem}"', "")
    return text


def with_author(text: str, description: str, author: str, email: str) -> str:
    """Says what the project is and who wrote it, in place of what was said of the template."""
    people = {"name": author} | ({"email": email} if email else {})
    named = ", ".join(f"{key} = {toml(value)}" for key, value in people.items())
    head = f"description = {toml(description)}\nauthors = [{{{named}}}]"
    text = re.sub(r"^description = .*", lambda _: head, text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^keywords = .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r'^    "(Development Status|Intended Audience) ::.*\n', "", text, flags=re.MULTILINE)


def with_longer_lines(text: str, more: int) -> str:
    """Allows for a longer name in comments and docstrings, which ruff does not wrap.

    Args:
        text: The file.
        more: Letters that the name has more than the template's; no line has it three times.
    """
    length = f"max-line-length = {120 + 2 * more}  # code is wrapped at 120; a text may be longer by the name"
    before = "[tool.ruff.lint.pydocstyle]\n"
    return text.replace(before, f"[tool.ruff.lint.pycodestyle]\n{length}\n\n{before}", 1)


def toml(text: str) -> str:
    """A text as TOML and JSON write it."""
    return json.dumps(text, ensure_ascii=False)
