"""The README of a new project."""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from kindling.newproject.rewrite import Project
from kindling.newproject.texts import blocks, fill, marked, without_lessons

TEMPLATE = Path(__file__).with_name("readme.md")


def readme(ours: str, project: Project) -> str:
    """Fills in readme.md, which is written with the template's own name and marked for the parts.

    In it, `[[words]]` on a line of its own stands for what our own README has under the heading of these words, or else
    for the paragraph, table or block of code there that has them.

    Args:
        ours: The README of the template.
        project: The project.
    """
    there = blocks(marked(ours, project.without))
    text = marked(TEMPLATE.read_text(encoding="utf-8"), project.without)
    text = re.sub(r"^\[\[(.+)\]\]$", lambda found: passage(there, found[1]), text, flags=re.MULTILINE)
    text = in_columns(fill(project.rename(without_lessons(text, project.without))))
    filled = {"DESCRIPTION": project.description, "AUTHOR": project.author, "TEMPLATE": f"Kindling {project.version}"}
    # Last, and all at once: what a person wrote may have these words in it, and so may the name of the package.
    return re.sub(rf"\b({'|'.join(filled)})\b", lambda found: filled[found[1]], text)


def passage(ours: Sequence[str], words: str) -> str:
    """What stands under a heading, up to the next one; or the block that has some words."""
    for place, block in enumerate(ours, 1):
        if re.fullmatch(rf"#+ {re.escape(words)}", block):
            return "\n\n".join(takewhile(lambda block: not block.startswith("#"), ours[place:]))
    return next(block for block in ours if words in block)


def in_columns(text: str) -> str:
    """Puts what is said of each folder into one column, however long the name of the package is."""
    listed = re.compile(r"^(src/\S+|\w+/) {2,}", re.MULTILINE)
    width = max(len(found[1]) for found in listed.finditer(text)) + 3
    return listed.sub(lambda found: found[1].ljust(width), text)
