"""The parts of this package that a project may do without: a folder or file that is deleted is not missed."""

from importlib import import_module
from types import ModuleType


def part(name: str) -> ModuleType | None:
    """Imports an optional part.

    Args:
        name: Its module, without the package: `report`, `data.tables`.

    Returns:
        The module; None where it, or the folder that it was in, has been deleted.
    """
    module = f"{__package__}.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return None
        raise  # it is there, and lacks something itself
