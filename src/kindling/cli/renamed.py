"""Names that earlier versions had: they keep working for one version, with a hint."""

from functools import cache

from kindling.utils.console import say

PACKAGES = {"kindling.callbacks.": "kindling.training."}


def present_path(class_path: str) -> str:
    """Return the present path of a class that may have moved."""
    for old, new in PACKAGES.items():
        if class_path.startswith(old):
            _hint(old.rstrip("."), new.rstrip("."))
            return new + class_path.removeprefix(old)
    return class_path


@cache
def _hint(old: str, new: str) -> None:
    say(f"note: {old} is called {new} now")
