"""Imports and lines as ruff would have them: names of other lengths sort and wrap elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_ruff() -> str | None:
    """The ruff of this Python, or one that is installed elsewhere."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("ruff", path=here)


def tidy(folder: Path) -> None:
    """Sorts imports and wraps lines, where there is ruff."""
    if ruff := find_ruff():
        for command in (["check", "--select", "I", "--fix-only"], ["format"]):
            subprocess.run([ruff, *command, "--quiet", "--no-cache", "."], cwd=folder, check=True)
