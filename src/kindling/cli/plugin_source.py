"""The classes in the source of plug-in packages, also in modules that are not imported."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from kindling.utils.plugins import LOADED


def source_classes() -> list[str]:
    """Return the paths of all public derived classes in the packages of the plug-ins, without importing any module."""
    packages = {plugin.package for plugin in LOADED.values()}
    folders = [(package, folder) for package in packages for folder in getattr(sys.modules[package], "__path__", ())]
    return [
        f"{'.'.join([package, *module.parts])}.{name}".replace(".__init__.", ".")
        for package, folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        if all(map(str.isidentifier, (module := path.relative_to(folder).with_suffix("")).parts))
        for name in _classes(path)
    ]


def _classes(path: Path) -> Iterator[str]:
    """Yield the names of the public classes with a base class in a file; none if it is not valid Python."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for node in body:
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_"):
            yield node.name
