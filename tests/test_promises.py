"""docs/resume.md: each cell of its table of guarantees names a test that exists."""

import ast
import re

from conftest import CONFIGS

ROOT = CONFIGS.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/resume.md").read_text(encoding="utf-8").partition("## Cost of saving")[0].splitlines()
    if line.startswith("| ")
]
TESTS = {
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef)
}


def test_each_guarantee_names_an_existing_test() -> None:
    titles, *rows = ROWS
    assert len(rows) > 10
    for what, *cells in rows:
        assert len(cells) == len(titles) - 1
        for title, cell in zip(titles[1:], cells, strict=True):
            named = re.findall(r"`(test_\w+)`", cell)
            assert named, f"{what}, {title}: no test is named"
            assert TESTS.issuperset(named), f"{what}, {title}: there is no {', '.join({*named} - TESTS)}"
