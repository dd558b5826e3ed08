"""Optional dependencies."""

from importlib.util import find_spec

from kindling.utils.text import join_names


def require_extra(extra: str, *modules: str) -> None:
    """Raise ImportError, with the command to install the extra, if one of its modules is missing."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ImportError(f"this needs {join_names(missing)}: pip install 'kindling-ml[{extra}]'")
