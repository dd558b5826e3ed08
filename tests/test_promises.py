"""docs/resume.md: a test that exists is named for each guarantee."""

import ast
import re

from conftest import CONFIGS

ROOT = CONFIGS.parent
TESTS = {
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef)
}


def table(title: str) -> dict[str, str]:
    """Return the cells of each row of the table in a section, joined, by the first one."""
    section = (ROOT / "docs/resume.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").partition(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {what: cells for what, _, cells in rows[1:]}


def test_each_guarantee_names_existing_tests() -> None:
    guarantees, tests = table("Guarantees"), table("Tests of each guarantee")
    assert len(guarantees) > 10
    assert [*guarantees] == [*tests][: len(guarantees)]
    for what, cells in tests.items():
        named = re.findall(r"`(\w+)`", cells)
        assert named, f"{what}: no test is named"
        assert TESTS.issuperset(named), f"{what}: there is no {', '.join({*named} - TESTS)}"
