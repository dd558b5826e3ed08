"""Writes the pages of the API from the docstrings: `python scripts/api.py site`, or `make docs`.

What pdoc warns of, a name that does not resolve for example, stops it.
"""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import kindling


def write_api(folder: Path) -> None:
    """Writes a page for each module, and a search over all, into a folder.

    Raises:
        UserWarning: If a page could not be written as it is meant.
    """
    for name in kindling.__all__:
        setattr(kindling, name, getattr(kindling, name))  # imported on first use: pdoc would not find them
    # Named one by one: of a package with `__all__`, pdoc shows only what that names.
    modules = [module.name for module in pkgutil.walk_packages(kindling.__path__, "kindling.")]
    pdoc.render.configure(docformat="google", footer_text=f"Kindling {kindling.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "The module specification")  # of packages without `__all__` it shows all
        pdoc.pdoc("kindling", *modules, "!kindling.__main__", output_directory=folder)


if __name__ == "__main__":
    write_api(Path(sys.argv[1]))
