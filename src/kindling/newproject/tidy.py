"""Imports and lines as ruff would have them: names of other lengths sort and wrap elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from kindling.newproject.repository import ROOT


def find_ruff() -> str | None:
    """The ruff of this Python, of the template's own environment, or one that is installed elsewhere."""
    folders = [Path(sys.executable).parent, *(ROOT / ".venv" / name for name in ("bin", "Scripts"))]
    here = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    return shutil.which("ruff", path=here)


def fetch_ruff(folder: Path) -> str | None:
    """Installs the ruff of the tested set into a folder, where pip can."""
    (pinned,) = re.findall(r"^ruff==.*", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), pinned]
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    return shutil.which("ruff", path=str(folder / "bin"))


def tidy(folder: Path) -> bool:
    """Sorts imports and wraps lines, where there is ruff or it can be had; says whether it did."""
    with tempfile.TemporaryDirectory() as temporary:
        ruff = find_ruff() or fetch_ruff(Path(temporary))
        for command in (["check", "--select", "I", "--fix-only"], ["format"]) if ruff else ():
            subprocess.run([str(ruff), *command, "--quiet", "--no-cache", "."], cwd=folder, check=True)
    return ruff is not None
