"""What a part of the package needs beside the dependencies."""

from importlib.util import find_spec

from kindling.utils.text import join_names


def require_extra(extra: str, *modules: str) -> None:
    """Raises ImportError, with the way to install them, where modules are missing."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ImportError(f"this needs {join_names(missing)}: pip install 'kindling-ml[{extra}]'")
