"""Find recipes by name, first in the user's project, then in Kindling."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kindling.cli.command_line import group_options, option_name, option_values
from kindling.utils.errors import UsageError
from kindling.utils.text import join_names, suggest

# Folder with configs and the template: inside the package in a wheel, above it in a checkout.
_WHEEL = Path(__file__).parents[1] / "share"
SHARE = _WHEEL if _WHEEL.exists() else Path(__file__).parents[3]
PROJECT = Path("configs")  # in the current folder
SEARCH = "search"  # folder of search spaces among them
SUFFIXES = (".yaml", ".yml")
DEFAULT_SEED = 42


def find_search_space(typed: str) -> str:
    """Return the path of a search space: a file, or a name in `configs/search/`.

    Raises:
        UsageError: If there is none, with the most similar one.
    """
    if Path(typed).is_file():
        return typed
    found = {path.stem: path for folder in (SHARE / "configs", PROJECT) for path in _configs_in(folder / SEARCH)}
    if typed not in found:
        near = suggest(typed, found) or f": give a file, or choose from {join_names([*found])}"
        raise UsageError(f"there is no search space {typed or repr(typed)}{near}")
    return str(found[typed])


def find_recipe(typed: str) -> str:
    """Return the path of a recipe, given as path or as name such as `with/bf16`; return inline YAML unchanged.

    Raises:
        UsageError: If there is no such file or recipe, with the most similar one.
    """
    if re.search(r":\s|[{[\n]", typed) or Path(typed).is_file():
        return typed
    if not Path(typed).is_absolute():
        for folder in (PROJECT, SHARE / "configs"):
            for path in (folder / typed, *(folder / f"{typed}{suffix}" for suffix in SUFFIXES)):
                if path.is_file() and path.suffix in SUFFIXES:
                    return str(path)
    kind = "file" if _is_path(typed) else "recipe"
    raise UsageError(f"there is no {kind} {typed or repr(typed)}{_nearest(typed)}")


def find_recipes(options: Sequence[str]) -> list[str]:
    """Return the options of a command with the names of recipes replaced by their paths."""
    found: list[str] = []
    for option in group_options(options):
        if option_name(option) == "config" and (values := option_values(option)):
            option = [f"--config={find_recipe(values[0])}", *values[1:]]
        found += option
    return found


def first_recipe(configs: Sequence[Path]) -> str:
    """Return the name of the first config file that is no overlay; empty if there is none."""
    return next((path.stem for path in configs if path.parent.name != "with"), "")


def list_recipes() -> dict[str, Path]:
    """Return all recipes by name; those of the project come first and override Kindling's."""
    recipes: dict[str, Path] = {}
    for folder in (PROJECT, SHARE / "configs"):
        found = [path for path in _configs_in(folder) if path.parent != folder / SEARCH]
        for path in sorted(found, key=lambda path: len(path.parts)):
            recipes.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return recipes


def _configs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def seed_of(recipes: Sequence[Mapping[str, Any]]) -> int:
    """Return the seed that the contents of recipes set, the last one that does; else the default."""
    seeds = (recipe.get("seed_everything") for recipe in reversed(recipes))
    return next((seed for seed in seeds if type(seed) is int), DEFAULT_SEED)


def describe(recipe: Path) -> str:
    """Return the first comment of a recipe, apart from settings of the editor."""
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server:"):
            return line.lstrip("# ")
    return ""


def recipe_table(width: int) -> str:
    """Return the names and descriptions of all recipes, in lines of at most `width` characters."""
    recipes = list_recipes()
    names = max(map(len, recipes))
    lines = [f"  {name:<{names}}  {describe(path)}" for name, path in recipes.items()]
    indent = " " * (names + 4)
    return "\n".join(["recipes:", *(textwrap.fill(line, width, subsequent_indent=indent) for line in lines)])


def _is_path(typed: str) -> bool:
    return Path(typed).suffix in SUFFIXES


def _nearest(typed: str) -> str:
    """Return a hint at the most similar file or recipe."""
    recipes = list(list_recipes())
    if _is_path(typed):
        files = map(str, [*PROJECT.rglob("*.yaml"), *Path(typed).parent.glob("*.yaml")])
        return suggest(typed, files) or suggest(Path(typed).stem, recipes)
    overlays = (f": did you mean {name}?" for name in recipes if name.endswith(f"/{typed}"))
    folder, slash, name = typed.rpartition("/")
    inside = [recipe.removeprefix(folder + slash) for recipe in recipes if recipe.startswith(folder + slash)]
    near = suggest(name, inside, folder + slash) if inside else suggest(typed, recipes)
    return next(overlays, "") or near or ": kindling fit --help lists all"
