"""Imports and lines as ruff would have them: names of other lengths sort and wrap elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from kindling.newproject.repository import ROOT


def find_ruff() -> str | None:
    """The ruff of this Python, of the template's own environment, or one that is installed elsewhere."""
    folders = [Path(sys.executable).parent, *(ROOT / ".venv" / name for name in ("bin", "Scripts"))]
    here = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    return shutil.which("ruff", path=here)


def tidy(folder: Path) -> None:
    """Sorts imports and wraps lines, where there is ruff."""
    if ruff := find_ruff():
        for command in (["check", "--select", "I", "--fix-only"], ["format"]):
            subprocess.run([ruff, *command, "--quiet", "--no-cache", "."], cwd=folder, check=True)
