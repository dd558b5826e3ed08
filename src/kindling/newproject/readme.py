"""The README of a new project."""

import re
from collections.abc import Collection
from pathlib import Path

from kindling.newproject.rewrite import Project

TEMPLATE = Path(__file__).with_name("readme.md")


def readme(ours: str, project: Project) -> str:
    """Fills in readme.md, which is written with the template's own name.

    In it, a line that begins with `{deploy} `, and what stands between the lines `{deploy}` and `{}`, is for projects
    with that part. `[[word]]` stands for the Python code in our own README that has the word.

    Args:
        ours: The README of the template.
        project: The project.
    """
    text = without_parts(TEMPLATE.read_text(encoding="utf-8"), project.without)
    codes = re.findall(r"```python\n.*?```", ours, flags=re.DOTALL)
    text = re.sub(r"\[\[(\w+)\]\]", lambda found: next(code for code in codes if found[1] in code), text)
    filled = {"DESCRIPTION": project.description, "AUTHOR": project.author, "TEMPLATE": f"Kindling {project.version}"}
    # Last, and all at once: what a person wrote may have these words in it, and so may the name of the package.
    return re.sub(rf"\b({'|'.join(filled)})\b", lambda found: filled[found[1]], in_columns(project.rename(text)))


def in_columns(text: str) -> str:
    """Puts what is said of each folder into one column, however long the name of the package is."""
    listed = re.compile(r"^(src/\S+|\w+/) {2,}", re.MULTILINE)
    width = max(len(found[1]) for found in listed.finditer(text)) + 3
    return listed.sub(lambda found: found[1].ljust(width), text)


def without_parts(text: str, without: Collection[str]) -> str:
    """The text for a project without some parts."""
    lines, shown = [], True
    for line in text.splitlines():
        marked = re.match(r"\{([a-z,]*)\}( ?)", line)
        is_there = not marked or not {*marked[1].split(",")} & {*without}
        if marked and not marked[2]:
            shown = is_there
        elif shown and is_there:
            lines.append(line.removeprefix(marked[0]) if marked else line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
