"""Wheels of metadata alone, and the build backend that makes them: pip installs them without a package index."""

import tomllib
import zipfile
from pathlib import Path
from typing import Any


def write_wheel(folder: str | Path, project: dict[str, Any], files: dict[str, str] | None = None) -> str:
    """Write the wheel of a project, as the table of pyproject.toml has it; return the name of the file."""
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
    """The hook that pip calls in the folder of a project, an editable one too."""
    return write_wheel(wheel_directory, tomllib.loads(Path("pyproject.toml").read_text())["project"])


build_editable = build_wheel
