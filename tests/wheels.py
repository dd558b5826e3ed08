"""Wheels that contain only metadata, and a build backend for them, so that pip works without a package index."""

import tomllib
import zipfile
from pathlib import Path
from typing import Any


def write_wheel(folder: str | Path, project: dict[str, Any], files: dict[str, str] | None = None) -> str:
    """Write the wheel of a project described by the `project` table of pyproject.toml; return its file name."""
    name, version = project["name"].replace("-", "_"), project["version"]
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in project.get("dependencies", [])]
    for extra, needed in project.get("optional-dependencies", {}).items():
        lines += [f"Provides-Extra: {extra}", *(f"Requires-Dist: {line}; extra == '{extra}'" for line in needed)]
    about = f"{name}-{version}.dist-info"
    texts = {
        f"{about}/METADATA": "\n".join(lines) + "\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, file), "w") as wheel:
        for path, text in (texts | (files or {})).items():
            wheel.writestr(path, text)
    return file


def build_wheel(wheel_directory: str, *_: object) -> str:
    """Build a wheel in the folder of a project; the hook that pip calls, also for editable installs."""
    return write_wheel(wheel_directory, tomllib.loads(Path("pyproject.toml").read_text())["project"])


build_editable = build_wheel
