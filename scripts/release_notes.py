"""Print the notes of a release from CHANGELOG.md: python scripts/release_notes.py v0.2.0.

Fails unless the tag is the version in src/kindling/__init__.py and the changelog has notes for it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def release_notes(tag: str, root: Path = ROOT) -> str:
    """Return the section of a version in the changelog.

    Raises:
        SystemExit: If the tag is not the version, or the section is missing, without a date or empty.
    """
    source = (root / "src/kindling/__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if tag != f"v{version}":
        raise SystemExit(f"the tag {tag} is not v{version}, the version in src/kindling/__init__.py")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    title = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    if not (found := re.search(rf"{title}\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)):
        raise SystemExit(f"CHANGELOG.md has no section [{version}] with a date: rename [Unreleased]")
    if not (notes := found[1].strip()):
        raise SystemExit(f"the section [{version}] of CHANGELOG.md is empty")
    return notes


if __name__ == "__main__":
    print(release_notes(sys.argv[1]))
