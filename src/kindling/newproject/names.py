"""What a new project may be called."""

import io
import keyword
import re
import sys
import tokenize
from collections.abc import Mapping
from importlib.util import find_spec

LONGEST = 40  # letters of a package; its name stands in lines of code


def check_package(name: str, sources: Mapping[str, str]) -> None:
    """Checks the name of a package.

    Args:
        name: The name.
        sources: The text of each file that is to be renamed, by its path in the repository.

    Raises:
        ValueError: If it can't be imported, or already means something else.
    """
    what = f"--package {name}"
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name) or len(name) > LONGEST:
        plain = re.sub(r"[\W_]+", "_", name.lower(), flags=re.ASCII).strip("_0123456789")[:LONGEST]
        hint = f": {plain} would be one" if plain and plain != name else ""
        raise ValueError(f"{what}: a package is called by small letters, digits and underscores{hint}")
    if keyword.iskeyword(name):
        raise ValueError(f"{what}: that is a keyword of Python, choose another name")
    if "kindling" in name:
        raise ValueError(f"{what}: that is the name of the template, choose another")
    if name in sys.stdlib_module_names or name == "test":
        raise ValueError(f"{what}: Python has a module of that name, choose another")
    required = re.findall(r"^[\w.-]+", sources.get("constraints.txt", ""), re.MULTILINE)
    if name in {re.sub(r"\W", "_", requirement).lower() for requirement in required} or _is_installed(name):
        raise ValueError(f"{what}: a package of that name is installed or needed, choose another")
    for path, text in sources.items():
        if path.endswith(".py") and name in _words(text, name):
            raise ValueError(f"{what}: {path} calls something else {name}, choose another name")


def _is_installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # a folder that lies about has none


def _words(text: str, name: str) -> set[str]:
    """The names in a program, where that name is a word in it at all."""
    if not re.search(rf"\b{name}\b", text):
        return set()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def title(package: str) -> str:
    """The name of the project in texts and in the names of classes: LeafNet of leaf_net."""
    return "".join(word.capitalize() for word in package.split("_"))
