"""The texts of a new project: they name nothing of the parts that it does without."""

import json
import re
import textwrap
from collections.abc import Collection

from kindling.newproject.parts import PARTS, goes

_PART = f"(?:{'|'.join([*PARTS, 'template'])})"  # what is for the template alone is for no project
_PARTS = f"({_PART}(?: or {_PART})*)"
_BLOCK = re.compile(rf"<!-- (?:{_PARTS} )?-->")
_WORDS = re.compile(rf"<!-- {_PARTS} -->(.*?)<!-- -->")
_LINE = re.compile(rf" *<!-- {_PARTS} -->")
_LESSON = re.compile(r"\b\d\d_\w+\.ipynb\b")
_PASSAGE = re.compile(r"^```.*?^```$|(?:^[^\n]+\n?)+", re.MULTILINE | re.DOTALL)
_NO_PROSE = re.compile(r"[|#!<>]|[-*] |\d+\. |```")


def adapt(path: str, text: str, without: Collection[str]) -> str:
    """A file as a project has it that does without some parts."""
    if path.endswith(".ipynb"):
        return _notebook(text, without)
    if path.endswith(".md"):
        return marked(text, without)
    return commented(text, without) if path in (".ci/run", "pyproject.toml") else text


def _is_there(parts: str, without: Collection[str]) -> bool:
    """Whether a project has one of the parts, of `images or tables` for example."""
    return not {*parts.split(" or ")} <= {*without, "template"}


def marked(text: str, without: Collection[str]) -> str:
    """A page in Markdown without the parts left out, and without its marks, which no reader sees.

    `<!-- deploy -->` on a line of its own begins what is for projects with that part, `<!-- -->` ends it. In a line it
    is about the words up to `<!-- -->`, or without that about the line.
    """
    lines, shown = [], True
    for whole in text.splitlines():
        if block := _BLOCK.fullmatch(whole):
            shown = not block[1] or _is_there(block[1], without)
            continue
        line = _WORDS.sub(lambda words: words[2] if _is_there(words[1], without) else "", whole)
        mark = _LINE.search(line)
        if shown and (not mark or _is_there(mark[1], without)):
            lines.append(line.replace(mark[0], "") if mark else line)
    return "\n".join(lines).strip() + "\n"


def commented(text: str, without: Collection[str]) -> str:
    """A file of settings without the lines whose comment begins with `deploy:` or the like.

    Where that comment is a line of its own, all goes up to the next empty line.
    """
    settings = re.compile(rf"^# {_PARTS}: .*\n(?:.+\n)*\n?|^.*\S.* # {_PARTS}: .*\n", re.MULTILINE)
    kept = settings.sub(lambda found: found[0] if _is_there(found[1] or found[2], without) else "", text)
    return re.sub(rf"# {_PARTS}: ", "# ", kept)


def without_lessons(text: str, without: Collection[str]) -> str:
    """A text without the lines that name a notebook which the project does not have."""
    lines = text.splitlines(keepends=True)
    there = [not any(goes(f"notebooks/{name}", without) for name in _LESSON.findall(line)) for line in lines]
    return "".join(line for line, is_there in zip(lines, there, strict=True) if is_there)


def _notebook(text: str, without: Collection[str]) -> str:
    content = json.loads(text)
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = without_lessons("".join(cell["source"]), without).rstrip("\n").splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def docstring(name: str, description: str) -> str:
    """A name and a description, whatever is in it, as the docstring of a module."""
    text = textwrap.fill(description.replace('"""', "'''"), 120, break_on_hyphens=False)
    raw = "r" if "\\" in text else ""
    return f'{raw}"""{name}.\n\n{text}\n"""'


def blocks(text: str) -> list[str]:
    """The headings, paragraphs, tables, lists and blocks of code of a page."""
    return [block.rstrip("\n") for block in _PASSAGE.findall(text)]


def fill(text: str) -> str:
    """Wraps the paragraphs of a page anew; code, tables and lists stay as they are."""
    return _PASSAGE.sub(lambda found: found[0] if _NO_PROSE.match(found[0]) else _wrap(found[0]), text)


def _wrap(paragraph: str) -> str:
    words = " ".join(paragraph.splitlines())
    end = "\n" * paragraph.endswith("\n")
    return textwrap.fill(words, 120, break_long_words=False, break_on_hyphens=False) + end
