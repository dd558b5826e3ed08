"""README.zh-CN.md matches README.md: the same headings, blocks, commands, links, pictures and numbers."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from conftest import CONFIGS

PAGES = ("README.md", "README.zh-CN.md")
ENGLISH, CHINESE = ((CONFIGS.parent / page).read_text(encoding="utf-8") for page in PAGES)
LINKS = "[中文](README.zh-CN.md)", "[English](README.md)"
HAN = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
REMARK = re.compile(r"(?<=\S) {2,}(?=\S)|# ")  # what precedes it stays as it is: a command, or a file of a tree
KINDS = {"code_inline": "code", "link_open": "link", "image": "picture", "strong_open": "bold"}


class Section(NamedTuple):
    """A heading and the content below it, up to the next heading.

    Attributes:
        title: Text of the heading.
        level: 1 to 6.
        blocks: Code blocks, each as its language and its lines.
        cells: Cells of tables, row by row, each as the numbers in it.
        marks: Code in backticks, links, pictures and numbers, in any order.
    """

    title: str
    level: int
    blocks: list[tuple[str, list[str]]]
    cells: list[list[str]]
    marks: Counter[str]


def parse(text: str) -> list[Token]:
    return MarkdownIt().enable("table").parse(text)


def find_marks(inline: Token) -> Iterator[str]:
    """Return everything that a translation must not change."""
    for part in inline.children or []:
        if part.type in KINDS:
            target = part.attrs.get("href") or part.attrs.get("src")
            yield f"{KINDS[part.type]} {target or part.content}".rstrip()
        if part.type in {"text", "image"}:
            yield from (f"number {number}" for number in NUMBER.findall(part.content))


def read_sections(text: str) -> list[Section]:
    sections: list[Section] = []
    for before, token in pairwise(parse(text)):
        if before.type == "heading_open":
            sections.append(Section(token.content, int(before.tag[1]), [], [], Counter()))
        if token.type == "fence":
            sections[-1].blocks.append((token.info, token.content.splitlines()))
        elif token.type == "inline":
            marks = list(find_marks(token))
            sections[-1].marks.update(marks)
            if before.type in {"th_open", "td_open"}:
                sections[-1].cells.append([mark for mark in marks if mark.startswith("number")])
    return sections


def same_line(language: str, ours: str, theirs: str) -> bool:
    """Return whether a line of a block is the same, apart from a comment in Chinese outside of Python code."""
    remark = language != "python" and HAN.search(theirs)
    return REMARK.split(ours)[0] == REMARK.split(theirs)[0] if remark else ours == theirs


def find_differences(ours: Section, theirs: Section) -> Iterator[str]:
    """Return descriptions of the differences between a section and its translation."""
    if ours.level != theirs.level:
        yield f"levels {ours.level} and {theirs.level}"
    for (language, our_lines), (other, their_lines) in zip_longest(ours.blocks, theirs.blocks, fillvalue=("", [])):
        if language != other:
            yield f"blocks of {language or 'no language'!r} and {other or 'no language'!r}"
        for our, their in zip_longest(our_lines, their_lines, fillvalue=""):
            if not same_line(language, our, their):
                yield f"lines of code {our!r} and {their!r}"
    for page, more in zip(PAGES, (ours.marks - theirs.marks, theirs.marks - ours.marks), strict=True):
        yield from (f"{mark!r}, {count} more in {page}" for mark, count in more.items())
    for place, (our_cell, their_cell) in enumerate(zip_longest(ours.cells, theirs.cells), 1):
        if our_cell != their_cell:
            yield f"cell {place} of the tables: {our_cell} and {their_cell}"


def first_difference(english: str, chinese: str) -> str | None:
    """Return the first difference with the two headings above it; an additional section is reported at its position."""
    nothing = Section("(no section)", 0, [], [], Counter())
    english, chinese = (text.replace(link, "", 1) for text, link in zip((english, chinese), LINKS, strict=True))
    for ours, theirs in zip_longest(read_sections(english), read_sections(chinese), fillvalue=nothing):
        for difference in find_differences(ours, theirs):
            return f'"{ours.title}" in {PAGES[0]}, "{theirs.title}" in {PAGES[1]}: {difference}'
    return None


def test_the_pages_link_to_each_other_under_the_title() -> None:
    assert [page.splitlines()[2] for page in (ENGLISH, CHINESE)] == list(LINKS)


def test_the_translation_matches_the_readme() -> None:
    difference = first_difference(ENGLISH, CHINESE)
    assert difference is None, difference


def test_no_paragraph_is_left_in_english() -> None:
    texts = [
        token.content
        for before, token in pairwise(parse(CHINESE.replace(LINKS[1], "")))
        if before.type in {"paragraph_open", "heading_open"} and not HAN.search(token.content)
    ]
    assert texts == ["Kindling"]
    assert "**" not in "".join(part.content for token in parse(CHINESE) for part in token.children or [])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("\n## Commands\n", "\n### Commands\n", "levels 3 and 2"),
        ("\n## Commands\n", "\n## A new project\n\nOne `command`.\n\n## Commands\n", '"A new project"'),
        ("\nMIT license.", "\n## Thanks\n\nMIT license.", '"Thanks" in README.md, "(no section)"'),
        ("kindling test --ckpt_path best  ", "kindling test --ckpt_path last  ", "--ckpt_path last  "),
        ("`make docs`", "`make site`", "'code make site', 1 more in README.md"),
        ('"""A wide network."""', '"""A broad network."""', "A broad network"),
        ("| 98.97 | 82.1 |", "| 82.1 | 98.97 |", "['number 82.1'] and ['number 98.97']"),
        ("after 80 s](docs/benchmark/compare.png)", "after 80 s](docs/page.png)", "picture docs/page.png"),
        ("[tables](docs/tables.md)", "[tables](docs/table.md)", "link docs/table.md"),
        ("kindling fit --help                    ", "kindling fit --halp                    ", "--halp"),
        ("```python\n# src/", "```\n# src/", "blocks of 'no language'"),
    ],
)
def test_the_first_difference_is_named(old: str, new: str, named: str) -> None:
    assert ENGLISH.count(old) == 1
    assert named in (first_difference(ENGLISH.replace(old, new), CHINESE) or "")
